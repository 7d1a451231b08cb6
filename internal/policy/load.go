package policy

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of what is read.
const (
	maxBytes   = 1 << 20 // a file, or an object of a cluster
	maxObjects = 1000    // a set
)

// Place is where objects are to hold: a few fields have a meaning in one place only.
type Place uint8

// The places.
const (
	Host    Place = iota // a command that postern run guards
	Cluster              // the pods of a cluster
)

// Load reads and checks policy files for postern run, each with one or several YAML documents.
//
// Shape: the files are one set: an AccessPolicy may name a Target of another file.
// Units: a file has at most 1 MiB, a set at most 1000 objects.
// Errors: every mistake of every file at once, one a line, as
// "file:line: Kind/name: field: what is wrong, what to do". No Set is returned then,
// so that a caller who reloads keeps the one it has.
func Load(paths ...string) (*Set, error) {
	l, err := newLoader(Host)
	if err != nil {
		return nil, err
	}
	l.readFiles(paths)
	return l.finish()
}

// Check is [Load] for files that are for either place: for a cluster, if one of
// their objects has a field that works only there. Nothing is asked of a cluster:
// whether the Secrets and Services are there is not known.
func Check(paths ...string) (*Set, Place, error) {
	l, err := newLoader(Host)
	if err != nil {
		return nil, Host, err
	}
	l.readFiles(paths)
	l.settle()
	set, err := l.finish()
	return set, l.place, err
}

// Parse is [Load] for one file that is in memory already; name stands for it in errors.
func Parse(name string, data []byte) (*Set, error) {
	l, err := newLoader(Host)
	if err != nil {
		return nil, err
	}
	if len(data) > maxBytes {
		return nil, remark{file: name, text: tooLarge}
	}
	l.read(0, name, data)
	return l.finish()
}

const tooLarge = "has more than 1 MiB; split it into several files"

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		var pathError *os.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err // the path stands before the text already
		}
		return nil, fmt.Errorf("cannot be opened: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err != nil {
		return nil, errors.New("cannot be read; name a file")
	}
	if len(data) > maxBytes {
		return nil, errors.New(tooLarge)
	}
	return data, nil
}

// loader is the state of one [Load] or [Compile].
type loader struct {
	place       Place
	report      *report
	expressions expressions
	targets     []object[Target]
	policies    []object[AccessPolicy]
	issuers     []object[Issuer]
	known       map[string]*document // by "Kind/name"
	ambiguous   map[string][]string  // policies that may name two credentials for one subject
	count       int
}

// object is an API object with the document that it was read from.
type object[T any] struct {
	*document
	it *T
}

func newLoader(place Place) (*loader, error) {
	e, err := newExpressions()
	if err != nil {
		return nil, err
	}
	return &loader{
		place: place, report: &report{}, expressions: e,
		known: map[string]*document{}, ambiguous: map[string][]string{},
	}, nil
}

func (l *loader) readFiles(paths []string) {
	for i, path := range paths {
		data, err := readFile(path)
		if err != nil {
			l.report.mistakes = append(l.report.mistakes, remark{order: i, file: path, text: err.Error()})
			continue
		}
		l.read(i, path, data)
	}
}

// read decodes the documents of one file.
func (l *loader) read(order int, name string, data []byte) {
	before := l.count
	line, err := documents(data, func(root *node) {
		l.count++
		if l.count <= maxObjects {
			l.readObject(l.open(root, order, name), root)
		}
	})
	if err != nil {
		l.report.mistakes = append(l.report.mistakes, remark{order: order, file: name, line: line, text: err.Error()})
		return
	}
	if l.count == before {
		l.report.mistakes = append(l.report.mistakes, remark{order: order, file: name, text: "holds no object; write a Target or an AccessPolicy"})
	}
}

// settle finds out for which place the files are.
func (l *loader) settle() {
	for _, t := range l.targets {
		l.place = max(l.place, t.it.place())
	}
	for _, p := range l.policies {
		l.place = max(l.place, p.it.place())
	}
	for _, i := range l.issuers {
		l.place = max(l.place, i.it.Spec.CA.place())
	}
	for _, t := range l.targets {
		t.document.place = l.place
	}
	for _, p := range l.policies {
		p.document.place = l.place
	}
	for _, i := range l.issuers {
		i.document.place = l.place
	}
}

// open makes the document of an object, whatever it holds.
func (l *loader) open(root *node, order int, file string) *document {
	kind, kindNode := scalar(root, "kind")
	_, metadata := scalar(root, "metadata")
	name, _ := scalar(metadata, "name")
	return &document{
		report: l.report, place: l.place, order: order, file: file, line: root.Line,
		kind: kind, name: name, title: title(kind, name),
		lines: map[string]int{"kind": kindNode.Line}, broken: map[string]bool{},
	}
}

// readObject decodes one document according to its kind.
func (l *loader) readObject(d *document, root *node) {
	switch d.kind {
	case "Target":
		t := decodeObject[Target](d, root)
		l.targets = append(l.targets, t)
		l.register(d, t.it.APIVersion, t.it.ObjectMeta.Name)
	case "AccessPolicy":
		p := decodeObject[AccessPolicy](d, root)
		l.policies = append(l.policies, p)
		l.register(d, p.it.APIVersion, p.it.ObjectMeta.Name)
	case "Issuer":
		i := decodeObject[Issuer](d, root)
		l.issuers = append(l.issuers, i)
		l.register(d, i.it.APIVersion, i.it.ObjectMeta.Name)
	case "":
		d.wrong("kind", "is missing; want Target, AccessPolicy or Issuer")
	default:
		d.wrong("kind", "%q is not a kind; want Target, AccessPolicy or Issuer", clip(d.kind))
	}
}

func decodeObject[T any](d *document, root *node) object[T] {
	it := new(T)
	d.decode(root, "", reflect.ValueOf(it).Elem())
	return object[T]{d, it}
}

func title(kind, name string) string {
	if kind == "" {
		return "object"
	}
	if name == "" {
		return clip(kind) + "/(no name)"
	}
	return clip(kind) + "/" + clip(name)
}

// register judges what all objects have in common, and that no two have one name.
func (l *loader) register(d *document, version, name string) {
	if version == "" {
		d.wrong("apiVersion", "is missing; want %s", APIVersion)
	} else if version != APIVersion {
		d.wrong("apiVersion", "%q is not a version that is read; want %s", clip(version), APIVersion)
	}
	if name == "" {
		d.wrong("metadata.name", "is missing; give the object a name")
		return
	}
	if !isLabel(name) {
		d.wrong("metadata.name", "%q is not a name; want at most 63 of a-z, 0-9 and -, with a letter or digit at both ends", clip(name))
		return
	}
	if first, taken := l.known[d.key()]; taken {
		d.wrong("metadata.name", "%q is taken by %s:%d; choose another", name, first.file, first.line)
		return
	}
	l.known[d.key()] = d
}

// finish checks every object, then all of them together.
func (l *loader) finish() (*Set, error) {
	if l.count > maxObjects {
		return nil, fmt.Errorf("the files hold %d objects; at most %d are read", l.count, maxObjects)
	}
	for _, t := range l.targets {
		t.it.check(t.document)
	}
	for _, i := range l.issuers {
		i.it.check(i.document, l.expressions)
	}
	for _, p := range l.policies {
		p.it.check(p.document, l)
	}
	l.checkTargets()
	l.checkUse()
	l.checkIssuers()
	l.checkPolicies()
	if len(l.report.mistakes) == 0 && len(l.targets) == 0 {
		return nil, errors.New("no Target in the policy files: nothing would be guarded; write one")
	}
	if err := l.report.err(); err != nil {
		return nil, err
	}
	return l.set(), nil
}

// set orders the checked objects and takes their digests.
func (l *loader) set() *Set {
	s := &Set{warnings: l.report.lines(), remarks: map[string][]string{}, ambiguous: l.ambiguous}
	for key, d := range l.known {
		if len(d.warnings) > 0 {
			s.remarks[key] = d.warnings
		}
	}
	all := sha256.New()
	for _, t := range sorted(l.targets) {
		t.digest = digestOf(t.TypeMeta, t.Name(), t.Spec)
		all.Write(t.digest[:])
		s.targets = append(s.targets, t)
	}
	for _, p := range sorted(l.policies) {
		p.digest = digestOf(p.TypeMeta, p.Name(), p.Spec)
		all.Write(p.digest[:])
		s.policies = append(s.policies, p)
	}
	for _, i := range sorted(l.issuers) {
		i.digest = digestOf(i.TypeMeta, i.Name(), i.Spec)
		all.Write(i.digest[:])
		s.issuers = append(s.issuers, i)
	}
	s.hash = hexHash(all)
	return s
}

func sorted[T any](objects []object[T]) []*T {
	slices.SortFunc(objects, func(a, b object[T]) int { return strings.Compare(a.name, b.name) })
	list := make([]*T, len(objects))
	for i, o := range objects {
		list[i] = o.it
	}
	return list
}

// digestOf hashes the canonical form of an object: its JSON, with the order of the
// struct's fields and the defaults filled in. What else a cluster has of it
// (labels, versions, status) decides nothing and is left out.
func digestOf(t metav1.TypeMeta, name string, spec any) digest {
	text, err := json.Marshal(map[string]any{"apiVersion": t.APIVersion, "kind": t.Kind, "metadata": map[string]string{"name": name}, "spec": spec})
	if err != nil {
		panic(err) // the types hold text, numbers and lists alone
	}
	return sha256.Sum256(text)
}
