package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// Jobs of the worker; any other is where to connect.
const (
	typeJob = "type" // into its own terminal
	pgxJob  = "pgx"  // be a program that uses pgx
)

// work is what the test binary does as a guarded command.
func work(job string) int {
	switch job {
	case typeJob:
		return typeIn()
	case pgxJob:
		return workAsPgx()
	}
	return connect(job)
}

// typeIn puts a character into the terminal's input.
func typeIn() int {
	character := [1]byte{'x'}
	_, _, number := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&character)))
	fmt.Printf("typing: %v\n", number)
	return 0
}

// connect connects with a password that is right at the server, over and over,
// and prints who the server says it is: the role of that password, had it gone
// around Postern.
func connect(url string) int {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for {
				fmt.Println(whoAmI(url))
			}
		})
	}
	all.Wait()
	return 0
}

func whoAmI(url string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		time.Sleep(time.Millisecond)
		return "refused"
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, "SELECT current_user").ReadAll()
	if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return "ended"
	}
	return string(results[0].Rows[0][0])
}
