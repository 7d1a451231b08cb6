package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestDetectionsOfATarget(t *testing.T) {
	set, err := Parse("f", []byte(strings.Replace(small, "  credential:", `  sensitive:
    - {detect: [credit-card, jwt], mask: redact}
    - {columns: ["*.ssn"], mask: redact}
    - {detect: [private-key], mask: "null"}
  credential:`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	target, _ := set.Target("db")
	want := []Detection{{CreditCard, Redact}, {JWT, Redact}, {PrivateKey, Null}}
	if got := target.Sensitive().Detections(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := target.Sensitive().Patterns(); !slices.Equal(got, []string{"*.ssn"}) {
		t.Errorf("got patterns %v, want *.ssn alone", got)
	}
	plain, err := Parse("f", []byte(strings.Replace(small, "  credential:", "  sensitive: [{detect: [jwt], mask: redact}]\n  credential:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if target, _ = plain.Target("db"); target.Sensitive().Any() {
		t.Error("got sensitive columns where there are detectors alone, want none")
	}
}
