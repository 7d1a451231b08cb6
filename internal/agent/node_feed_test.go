package agent

import (
	"fmt"
	"io"
	"testing"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/cluster"
)

func TestGateIsToldOfGuardedPodsFirst(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	n := &node{o: NodeOptions{Log: log, StrictPods: StrictReport}}
	var list []cluster.Pod
	for i := range 3 * maxGatePods {
		list = append(list, cluster.Pod{UID: fmt.Sprint(i), Guarded: i%100 == 99})
	}
	guarded := 0
	got := n.gatePods(list)
	for _, p := range got {
		if p.Guarded {
			guarded++
		}
	}
	if len(got) != maxGatePods || guarded != 3*maxGatePods/100 {
		t.Errorf("got %d pods, %d of them guarded, want %d with all guarded ones", len(got), guarded, maxGatePods)
	}
}

func TestProtocolsOfTheGuardDecideWhatIsGuarded(t *testing.T) {
	n := &node{o: NodeOptions{StrictPods: StrictReport}}
	got := n.gatePods([]cluster.Pod{
		{UID: "all", Guarded: true}, {UID: "postgres", Guarded: true, Protocols: []string{"kubernetes", "postgres"}},
		{UID: "other", Guarded: true, Protocols: []string{"kubernetes"}}, {UID: "none"},
	})
	for i, want := range []bool{true, true, false, false} {
		if got[i].Guarded != want {
			t.Errorf("got pod %s guarded %v, want %v", got[i].UID, got[i].Guarded, want)
		}
	}
}
