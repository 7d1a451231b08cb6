package policy

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestBrokenFileReportsEverythingAtOnce(t *testing.T) {
	set, err := Load("testdata/broken.yaml")
	if err == nil || set != nil {
		t.Fatalf("got set %v and error %v, want no set and an error", set, err)
	}
	golden := filepath.Join("testdata", "broken.golden")
	got := err.Error() + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n := strings.Count(got, "\n"); n < 25 {
		t.Errorf("got %d mistakes, want at least 25", n)
	}
}
