package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"postern.dev/postern/internal/redirect"
)

// self is this very program, also when its file was replaced meanwhile.
const self = "/proc/self/exe"

// keeperLife is how long a keeper has to live to be replaced.
const keeperLife = 100 * time.Millisecond

// Descriptors in a keeper.
const (
	keeperPipe   = 3
	keeperFolder = 4 // of the CA file, where there is one
)

// keeper is the process that ends the run when the agent cannot: it waits for
// the end of a pipe whose other end the agent alone holds, however the agent
// ends. Nothing is ever written into the pipe.
type keeper struct {
	id   string
	ca   *caFile // nil without one
	died func(error)
	cmd  *exec.Cmd

	mu   sync.Mutex
	hold *os.File // the agent's end; nil once it let go
}

// startKeeper starts the keeper of the run called id, which calls died before
// it replaces one that died; ca is nil without a CA file. The keeper is a child of the agent and so in its cgroup,
// but in a session of its own, where no signal of the terminal reaches it.
func startKeeper(id string, ca *caFile, died func(error)) (*keeper, error) {
	k := &keeper{id: id, ca: ca, died: died}
	return k, k.start()
}

func (k *keeper) start() error {
	wait, hold, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	defer wait.Close()
	cmd := exec.Command(self, "keeper", "--", k.id)
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{wait}
	if k.ca != nil { // the folder itself: its path may lead elsewhere by then
		cmd.Args = append(cmd.Args, k.ca.name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, k.ca.folder)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start keeper: %w", err), hold.Close())
	}
	k.cmd = cmd
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hold = hold
	return nil
}

// run replaces a keeper that dies, until ctx is done; then the keeper ends the
// run, and run returns when it has.
//
// Errors: no keeper can be started any more, or it dies at once.
func (k *keeper) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, k.letGo)()
	for {
		started := time.Now()
		err := k.cmd.Wait()
		if ctx.Err() != nil {
			return nil // the agent releases too, and tells whether it could
		}
		if time.Since(started) < keeperLife {
			return fmt.Errorf("keep a keeper: %w", err)
		}
		k.died(err)
		k.letGo()
		if err := k.start(); err != nil {
			return err
		}
		if ctx.Err() != nil { // it was let go before it was there
			k.letGo()
		}
	}
}

func (k *keeper) letGo() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hold != nil {
		k.hold.Close()
		k.hold = nil
	}
}

// Keep waits until the agent of the run called id has ended, and ends the run:
// what remains of the command is killed before the guard goes. Then it removes
// the CA file, whose name is empty where there is none.
func Keep(id, caName string) error {
	pipe := os.NewFile(keeperPipe, "agent")
	if _, err := io.Copy(io.Discard, pipe); err != nil {
		return fmt.Errorf("wait for agent: %w", err)
	}
	if caName != "" {
		ca := &caFile{folder: os.NewFile(keeperFolder, "CA file's folder"), name: caName}
		defer ca.remove()
	}
	return redirect.Release(context.Background(), "", id)
}
