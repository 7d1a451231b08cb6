package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// work is what the test binary does as a guarded command: it connects with a
// password that is right at the server, over and over, and prints who the
// server says it is: the role of that password had it gone around Postern.
func work(url string) int {
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
