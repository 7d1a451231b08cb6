package policy

import (
	"fmt"
	"testing"
)

// BenchmarkCompile is what each change of an object costs an agent.
func BenchmarkCompile(b *testing.B) {
	for _, count := range []int{1, 100} {
		lines := []string{dbTarget}
		for i := range count {
			lines = append(lines, fmt.Sprintf("AccessPolicy p%d targets: [db], subjects: [{namespaces: [n%d]}], rules: [{name: a, allow: [SELECT], relations: ['public.*']}, {name: b, deny: [UPDATE], when: '!statement.hasWhere'}]", i, i))
		}
		var docs []Document
		for _, line := range lines {
			docs = append(docs, documentOf(b, line))
		}
		b.Run(fmt.Sprintf("policies=%d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set, rejected, err := Compile(docs)
				if err != nil || len(rejected) > 0 || len(set.Policies()) != count {
					b.Fatalf("got %v and %v, want a set", rejected, err)
				}
			}
		})
	}
}
