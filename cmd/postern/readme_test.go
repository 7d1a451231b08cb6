package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite the README's tables")

const (
	tablesBegin = "<!-- tables -->\n"
	tablesEnd   = "<!-- end of tables -->"
)

func TestREADMETablesAreWhatTheCodeSays(t *testing.T) {
	const file = "../../README.md"
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(content), tablesBegin)
	_, after, ends := strings.Cut(rest, tablesEnd)
	if !begins || !ends {
		t.Fatalf("got a README without the marks %q and %q, want both", tablesBegin, tablesEnd)
	}
	want := before + tablesBegin + tables(t) + tablesEnd + after
	if want == string(content) {
		return
	}
	if !*update {
		t.Fatal("got tables in the README that differ from the code, want them alike: run go test ./cmd/postern -run README -update")
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tables(t *testing.T) string {
	var out strings.Builder
	section := func(title, head string, rows []string) {
		if len(rows) == 0 {
			t.Fatalf("got no rows for %s, want some", title)
		}
		fmt.Fprintf(&out, "\n### %s\n\n%s\n%s%s\n", title, head, strings.Repeat("|---", strings.Count(head, "|")-1)+"|\n", strings.Join(rows, "\n"))
	}
	for _, c := range []struct {
		title   string
		command *cobra.Command
	}{
		{"run", runCommand(io.Discard)}, {"policy check", policyCheckCommand()},
		{"audit tail", tailCommand()}, {"audit show", showCommand()}, {"audit report", reportCommand()}, {"audit verify", verifyCommand()},
		{"doctor", doctorCommand()}, {"status", statusCommand()}, {"agent arm", armCommand()}, {"agent install", installCommand()}, {"agent uninstall", uninstallCommand()},
		{"agent", agentCommand(io.Discard)}, {"agent gate", gateCommand()}, {"controller", controllerCommand(io.Discard)},
	} {
		section("`postern "+c.title+"`", "| flag | default | what it does |", flagRows(c.command))
	}
	section("Values of the chart", "| value | default | what it is |", valueRows(t))
	section("Privileges of the gate", "| privilege | for |", privilegeRows(t))
	policies := "../../internal/policy/object*.go"
	for _, object := range []struct{ title, root string }{
		{"Target", "TargetSpec"}, {"AccessPolicy", "AccessPolicySpec"}, {"Issuer", "IssuerSpec"},
	} {
		section(object.title+": fields of `spec`", "| field | what it is |", fieldRows(t, policies, object.root))
	}
	section("Records", "| field | what it is |", fieldRows(t, "../../internal/audit/record.go", "Record"))
	section("Metrics", "| metric | what it counts |", metricRows(t))
	return out.String() + "\n"
}

func flagRows(command *cobra.Command) []string {
	var rows []string
	command.LocalFlags().VisitAll(func(f *pflag.Flag) {
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		value := ""
		if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" {
			value = "`" + f.DefValue + "`"
		}
		rows = append(rows, row(name, value, f.Usage))
	})
	return rows
}

// fieldRows lists the JSON fields of a struct and of the structs in it, with
// the comments that the source has on them.
func fieldRows(t *testing.T, pattern, root string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v and error %v for %s, want files", files, err, pattern)
	}
	types := make(map[string]*ast.StructType)
	docs := make(map[string]string)
	for _, file := range files {
		for _, declaration := range parseGo(t, file).Decls {
			declared, ok := declaration.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range declared.Specs {
				if named, ok := spec.(*ast.TypeSpec); ok {
					if body, ok := named.Type.(*ast.StructType); ok {
						types[named.Name.Name], docs[named.Name.Name] = body, firstSentence(declared.Doc.Text())
					}
				}
			}
		}
	}
	return structRows(types, docs, root, "")
}

func structRows(types map[string]*ast.StructType, docs map[string]string, name, prefix string) []string {
	var rows []string
	for _, field := range types[name].Fields.List {
		if field.Tag == nil {
			continue
		}
		tag, _ := strconv.Unquote(field.Tag.Value)
		key, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if key == "" || key == "-" {
			continue
		}
		inner, list := typeName(field.Type)
		comment := firstSentence(field.Comment.Text() + field.Doc.Text())
		if _, nested := types[inner]; !nested {
			rows = append(rows, row("`"+prefix+key+"`", comment))
			continue
		}
		if comment == "" {
			comment = docs[inner]
		}
		if list {
			key += "[]"
		}
		rows = append(rows, row("`"+prefix+key+"`", comment))
		rows = append(rows, structRows(types, docs, inner, prefix+key+".")...)
	}
	return rows
}

func typeName(e ast.Expr) (name string, list bool) {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.ArrayType:
		name, _ = typeName(e.Elt)
		return name, true
	case *ast.Ident:
		return e.Name, false
	}
	return "", false
}

// metricRows lists the metrics by the calls that make them: name, then help.
func metricRows(t *testing.T) []string {
	t.Helper()
	var rows []string
	add := func(name, help ast.Expr) {
		n, isName := name.(*ast.BasicLit)
		h, isHelp := help.(*ast.BasicLit)
		if isName && isHelp && n.Kind == token.STRING && h.Kind == token.STRING {
			rows = append(rows, row("`postern_"+strings.TrimPrefix(strings.Trim(n.Value, `"`), "postern_")+"`", strings.Trim(h.Value, `"`)))
		}
	}
	files, err := filepath.Glob("../../internal/metrics/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		ast.Inspect(parseGo(t, file), func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if len(n.Args) >= 2 {
					add(n.Args[0], n.Args[1])
				}
			case *ast.CompositeLit:
				fields := make(map[string]ast.Expr)
				for _, element := range n.Elts {
					if pair, ok := element.(*ast.KeyValueExpr); ok {
						fields[fmt.Sprint(pair.Key)] = pair.Value
					}
				}
				add(fields["Name"], fields["Help"])
			}
			return true
		})
	}
	return rows
}

func parseGo(t *testing.T, file string) *ast.File {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// firstSentence gives the first paragraph of a comment, on one line and without
// the markers of controller-gen.
func firstSentence(text string) string {
	paragraph, _, _ := strings.Cut(strings.TrimSpace(text), "\n\n")
	paragraph, _, _ = strings.Cut("\n"+paragraph, "\n+")
	return strings.Join(strings.Fields(paragraph), " ")
}

func row(cells ...string) string {
	for i, cell := range cells {
		cells[i] = strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(cell)
	}
	return "| " + strings.Join(cells, " | ") + " |"
}
