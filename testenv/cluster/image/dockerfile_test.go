package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDockerfileIsWhatTheChartRunsWith: the chart calls the entry point by the
// arguments alone, people by its path, and the agent's user is the image's.
func TestDockerfileIsWhatTheChartRunsWith(t *testing.T) {
	r, err := readRecipe("../../../deploy/Dockerfile", map[string]string{"TARGETARCH": "arm64", "VERSION": "1.2.3", "REVISION": "abc"})
	if err != nil {
		t.Fatal(err)
	}
	if want := [][2]string{{"postern-linux-arm64", "/postern"}}; !slices.Equal(r.copies, want) {
		t.Errorf("got files %q, want %q", r.copies, want)
	}
	if want := []string{"/postern"}; !slices.Equal(r.config.Entrypoint, want) {
		t.Errorf("got entry point %q, want %q", r.config.Entrypoint, want)
	}
	if got, want := r.config.User, "65532:65532"; got != want {
		t.Errorf("got user %q, want %q", got, want)
	}
	if got, want := r.config.Labels["org.opencontainers.image.version"], "1.2.3"; got != want {
		t.Errorf("got version %q, want %q", got, want)
	}
	chart, err := os.ReadFile("../../../deploy/chart/templates/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"runAsUser: 65532", "runAsGroup: 65532", "--uid=65532", "--agent-uid=65532"} {
		if !strings.Contains(string(chart), want) {
			t.Errorf("got no %q in the chart, want the image's user there", want)
		}
	}
}

func TestRecipeRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for name, text := range map[string]string{
		"another base":         "FROM debian\n",
		"another instruction":  "FROM scratch\nRUN true\n",
		"an undeclared value":  "FROM scratch\nUSER ${WHO}\n",
		"a shell's entrypoint": "FROM scratch\nENTRYPOINT /postern\n",
	} {
		path := filepath.Join(t.TempDir(), "Dockerfile")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readRecipe(path, nil); err == nil {
			t.Errorf("got %+v for %s, want an error", got, name)
		}
	}
}
