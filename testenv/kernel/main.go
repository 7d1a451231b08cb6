// Command kernel runs the tests of packages on another kernel than the running
// one: a stock kernel of the distribution, in a virtual machine without
// hardware support and without a disk, so that it runs wherever Go does and
// needs no root. The machine has the pure cgroup v2 layout of a current
// distribution.
//
//	host                                  guest (this command too, as /init)
//	download the kernel's package
//	go test -c, for each package
//	write all into an initramfs
//	start QEMU ─────────────────────────▶ load modules, mount, configure
//	copy the second serial port  ◀─────── run the tests, one by one
//	exit with the status         ◀─────── say the status, power off
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	series    string        // of the kernel, such as 6.1
	cache     string        // folder of downloaded kernels
	arguments string        // of the test binaries
	limit     time.Duration // for the whole run of the machine
	packages  []string      // whose tests run
}

func main() {
	if os.Args[0] == guestPath {
		guest()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernel:", err)
		os.Exit(1)
	}
}

// run does what the command line says and answers an error unless every test
// passed.
func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	start := time.Now()
	stage := func(name string) {
		fmt.Fprintf(out, "kernel: %s (%d s)\n", name, int(time.Since(start).Seconds()))
	}
	k, err := find(ctx, o.series, o.cache)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "postern-kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	stage("build the tests")
	guest, tests, err := build(ctx, o.packages, work)
	if err != nil {
		return err
	}
	initramfs := filepath.Join(work, "initramfs")
	if err := pack(initramfs, guest, k, tests, o.arguments); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	stage("boot " + k.name)
	err = boot(ctx, machine{kernel: k.image, initramfs: initramfs, console: filepath.Join(work, "console"), limit: o.limit}, out)
	stage("the machine is off")
	return err
}

func parse(args []string) (options, error) {
	var o options
	cache, err := os.UserCacheDir()
	if err != nil {
		return o, err
	}
	flags := flag.NewFlagSet("kernel", flag.ContinueOnError)
	flags.StringVar(&o.series, "kernel", "6.1", "the `series` of the distribution's kernel to run")
	flags.StringVar(&o.cache, "cache", filepath.Join(cache, "postern", "kernels"), "`folder` for downloaded kernels")
	flags.StringVar(&o.arguments, "arguments", "", "`arguments` for the test binaries, such as '-test.v -test.run=Uring'")
	flags.DurationVar(&o.limit, "limit", 30*time.Minute, "after which the machine is taken for hung")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.packages = flags.Args(); len(o.packages) == 0 {
		return o, errors.New("no packages are named whose tests to run")
	}
	return o, nil
}
