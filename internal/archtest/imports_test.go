package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "postern.dev/postern"

// A rule gives a package its level and the third parties that it, and nobody
// else, may use. A package imports packages of lower levels only.
type rule struct {
	path         string // below the module
	level        int
	thirdParties []string // module or package path prefixes
}

var rules = []rule{
	{"bpf", 0, []string{"github.com/cilium/ebpf"}},
	{"internal/policy", 0, []string{"github.com/google/cel-go", "sigs.k8s.io/yaml"}},
	{"internal/sql", 0, []string{"github.com/wasilibs/go-pgquery", "github.com/pganalyze/pg_query_go/v6", "google.golang.org/protobuf"}},
	{"internal/mask", 0, nil},
	{"internal/metrics", 0, []string{"github.com/prometheus/client_golang"}},

	{"internal/workload", 1, []string{"github.com/containerd/nri"}},
	{"internal/cluster", 1, []string{"k8s.io/client-go", "k8s.io/apimachinery", "k8s.io/klog/v2"}},
	{"internal/identity", 1, []string{"github.com/coreos/go-oidc/v3", "github.com/go-jose/go-jose/v4"}},
	{"internal/audit", 1, []string{"golang.org/x/mod/sumdb"}},
	{"internal/credential", 1, []string{"sigs.k8s.io/yaml"}},
	{"internal/trust", 1, nil},

	{"internal/redirect", 2, []string{"github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns"}},
	{"proxy", 2, nil},

	{"internal/gate", 3, nil},
	{"proxy/postgres", 3, []string{"github.com/jackc/pgx/v5"}},

	{"internal/agent", 4, nil},
	{"internal/controller", 4, []string{"k8s.io/client-go", "k8s.io/apimachinery"}},

	{"cmd/postern", 5, []string{"github.com/spf13/cobra", "golang.org/x/crypto/x509roots/fallback"}},

	{"deploy/e2e", 6, nil}, // tests alone
}

// everywhere may be imported by every package.
var everywhere = []string{
	"github.com/sirupsen/logrus", "golang.org/x/sync", "golang.org/x/sys",
	"k8s.io/api", "k8s.io/apimachinery/pkg/apis/meta/v1", "k8s.io/apimachinery/pkg/types", // types alone
}

func TestPackagesImportLowerLevelsAndTheirOwnThirdPartiesOnly(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if name == "internal/archtest" || strings.HasPrefix(name, "testenv") {
			continue
		}
		self, ok := ruleOf(name)
		if !ok {
			t.Errorf("got package %s without a rule, want one in this file's table", name)
			continue
		}
		for _, imported := range p.Imports {
			if complaint := self.forbids(imported); complaint != "" {
				t.Errorf("got %s importing %s, want none: %s", name, imported, complaint)
			}
		}
	}
}

func TestOnlyTestsImportTestenv(t *testing.T) {
	for _, p := range packages(t) {
		inTestenv := strings.HasPrefix(p.ImportPath, module+"/testenv")
		for _, imported := range p.Imports {
			switch ours, isOurs := strings.CutPrefix(imported, module+"/"); {
			case !isOurs:
			case strings.HasPrefix(ours, "testenv") && !inTestenv:
				t.Errorf("got %s importing %s outside a test, want testenv in tests only", p.ImportPath, imported)
			case inTestenv && !strings.HasPrefix(ours, "testenv"):
				t.Errorf("got %s importing %s, want testenv free of the product", p.ImportPath, imported)
			}
		}
	}
}

func TestRulesNameExistingPackages(t *testing.T) {
	var names []string
	for _, p := range packages(t) {
		names = append(names, strings.TrimPrefix(p.ImportPath, module+"/"))
	}
	for _, r := range rules {
		if !slices.Contains(names, r.path) {
			t.Errorf("got a rule for %s, want a package of that name", r.path)
		}
	}
}

func TestForbidsWhatTheTableForbids(t *testing.T) {
	policy, _ := ruleOf("internal/policy")
	for _, row := range []struct {
		imported  string
		forbidden bool
	}{
		{"fmt", false},
		{"encoding/json", false},
		{"github.com/google/cel-go/cel", false},
		{"github.com/sirupsen/logrus", false},
		{"github.com/jackc/pgx/v5", true},
		{module + "/internal/sql", true},
		{module + "/proxy", true},
		{module + "/internal/unheard", true},
	} {
		if got := policy.forbids(row.imported) != ""; got != row.forbidden {
			t.Errorf("got forbidden=%v for internal/policy importing %s, want %v", got, row.imported, row.forbidden)
		}
	}
}

// forbids says why the rule's package may not import path; empty if it may.
func (r rule) forbids(path string) string {
	if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	if ours, isOurs := strings.CutPrefix(path, module+"/"); isOurs {
		other, ok := ruleOf(ours)
		switch {
		case !ok:
			return "it has no rule"
		case other.level >= r.level:
			return "it is not of a lower level"
		}
		return ""
	}
	below := func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
	if slices.ContainsFunc(everywhere, below) || slices.ContainsFunc(r.thirdParties, below) {
		return ""
	}
	return "that third party belongs elsewhere"
}

func ruleOf(path string) (rule, bool) {
	i := slices.IndexFunc(rules, func(r rule) bool { return r.path == path })
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

type listed struct {
	ImportPath string
	Imports    []string
}

// packages lists the module's packages as the go tool sees them.
func packages(t *testing.T) []listed {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
