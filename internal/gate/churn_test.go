package gate

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// size is what a gate has of what could be lost.
type size struct{ descriptors, goroutines, heapKiB, rssKiB int }

// size asks the gate's process, which answers in its log.
func (n *node) size(t *testing.T) size {
	t.Helper()
	said := regexp.MustCompile(`goroutines=(\d+) heapKiB=(\d+)`)
	before := len(said.FindAllString(n.log.String(), -1))
	if err := syscall.Kill(n.gate, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var all [][]string
	eventually(t, "the gate's size", func() bool {
		all = said.FindAllStringSubmatch(n.log.String(), -1)
		return len(all) > before
	})
	last := all[len(all)-1]
	goroutines, _ := strconv.Atoi(last[1])
	heap, _ := strconv.Atoi(last[2])
	return size{n.descriptors(t), goroutines, heap, n.rss(t)}
}

// rss is how much memory the gate's process has.
//
// Source: proc_pid_status(5), VmRSS.
func (n *node) rss(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.gate))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

func TestChurnOfPodsLeavesNothing(t *testing.T) {
	batches, batch := 20, 25
	if testing.Short() {
		batches = 2
	}
	n := newNode(t)
	kept := n.newPod(t)
	kept.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	go serve(c, func(*Conn) {})
	go drain(c)
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{kept.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	churn := func(t *testing.T) { // what it makes goes with it
		all := []Pod{kept.Pod}
		var list []*testPod
		for range batch {
			p := n.newPod(t)
			p.Guarded = true
			list, all = append(list, p), append(all, p.Pod)
		}
		if err := c.Pods(t.Context(), all, nil); err != nil {
			t.Fatal(err)
		}
		list[0].expect(t, "in the middle", "served")
		for _, p := range list {
			p.kill(t)
		}
		if err := c.Pods(t.Context(), []Pod{kept.Pod}, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("first", churn) // what is made once is made
	before := n.size(t)
	for i := range batches {
		t.Run(fmt.Sprint(i), churn)
	}
	var after size
	eventually(t, "no descriptor and no goroutine more than before", func() bool {
		after = n.size(t)
		return after.descriptors <= before.descriptors && after.goroutines <= before.goroutines
	})
	const slackKiB = 4 << 10
	if after.heapKiB > before.heapKiB+slackKiB {
		t.Errorf("got a heap of %d KiB after %d pods, want %d and no more than %d above", after.heapKiB, batches*batch, before.heapKiB, slackKiB)
	}
	s, err := c.Status(t.Context())
	if err != nil || len(s.Pods) != 1 {
		t.Errorf("got %d pods, %v, want the one that was kept", len(s.Pods), err)
	}
	kept.expect(t, "afterwards", "served")
	t.Logf("before %+v, after %d pods %+v", before, batches*batch, after)
}

// drain reads what is told, so that nothing waits.
func drain(c *Client) {
	for range c.Events() {
	}
}

func TestPodThatIsGuardedCostsAFewDescriptors(t *testing.T) {
	pods := 100
	if testing.Short() {
		pods = 20
	}
	n := newNode(t)
	c := n.client(t, "gate/agent", agentID)
	go drain(c)
	if err := c.Guard(t.Context(), guardedSet); err != nil {
		t.Fatal(err)
	}
	before := n.size(t)
	var all []Pod
	for range pods {
		p := n.newPod(t)
		p.Guarded = true
		all = append(all, p.Pod)
	}
	if err := c.Pods(t.Context(), all, nil); err != nil {
		t.Fatal(err)
	}
	after := n.size(t)
	const descriptors, goroutines = 8, 6
	if got := after.descriptors - before.descriptors; got > pods*descriptors {
		t.Errorf("got %d descriptors for %d pods, want no more than %d each", got, pods, descriptors)
	}
	if got := after.goroutines - before.goroutines; got > pods*goroutines {
		t.Errorf("got %d goroutines for %d pods, want no more than %d each", got, pods, goroutines)
	}
	t.Logf("before %+v, with %d pods %+v", before, pods, after)
}
