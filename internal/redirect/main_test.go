package redirect

import (
	"fmt"
	"os"
	"testing"
)

// asWorkload in the environment makes the test binary the guarded command.
const asWorkload = "POSTERN_TEST_WORKLOAD"

func TestMain(m *testing.M) {
	name := os.Getenv(asWorkload)
	if name == "" {
		os.Exit(m.Run())
	}
	work, ok := workloads[name]
	if !ok {
		fmt.Println("no such workload:", name)
		os.Exit(2)
	}
	fmt.Println(work(readSetting()))
}
