package redirect

import "testing"

func TestSmoke(t *testing.T) {
	w := newWorld(t, Options{})
	for _, v := range []string{"plain4", "plain6", "mapped6"} {
		t.Log(v, w.play(t, w.workload(w.command, v, capabilities{})), w.reached(t), w.direct.Load(), w.noOrigin.Load())
	}
	c, err := w.run.Counters()
	t.Log(c, err)
}
