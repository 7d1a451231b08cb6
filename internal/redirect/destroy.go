package redirect

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"

	"postern.dev/postern/bpf"
)

// Destroy ends connections to what is guarded that the command opened before it
// was, and those to a Target that other processes of its user have open; their
// owners get ECONNABORTED. It answers how many. It is called after [Run.Set], in
// the network namespace of the command.
func (r *Run) Destroy(ctx context.Context) (int, error) {
	if !r.canEnd {
		return r.destroyByNetlink(ctx)
	}
	spec, err := bpf.LoadDestroy()
	if err != nil {
		return 0, err
	}
	var objects struct {
		Destroy *ebpf.Program `ebpf:"destroy"`
	}
	err = spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{
			bpf.DestroyMapPosternRun: r.maps.PosternRun,
			bpf.DestroyMapGuards:     r.maps.Guards,
		},
	})
	if err != nil {
		return 0, fmt.Errorf("load destroy: %w", err)
	}
	defer objects.Destroy.Close()
	return walk(ctx, objects.Destroy)
}

// countBytes reads to the end; each read walks on through the sockets.
func countBytes(ctx context.Context, from io.Reader) (int, error) {
	buf := make([]byte, 4096)
	n := 0
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		got, err := from.Read(buf)
		n += got
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("walk sockets: %w", err)
		}
	}
}
