package policy

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// ErrClaims tells that a token's claims do not name a subject.
var ErrClaims = errors.New("claims do not name a subject")

// Bounds of what a token may say.
const (
	maxName   = 256 // bytes of a user or group
	maxGroups = 500
)

// claims is an Issuer's expressions, compiled; groups and require may be nil.
type claims struct {
	username, groups, require cel.Program
}

// Name is the issuer's name: the prefix of its subjects.
func (i *Issuer) Name() string { return i.ObjectMeta.Name }

// Subject says whom a token's claims name: a qualified user and qualified groups.
//
// Shape: claims are those of a token whose signature, issuer, audience and expiry were verified.
// Units: a name has at most 256 bytes, a user at most 500 groups.
// Errors: [ErrClaims], with the expression that refused; no claim's value is in the text.
func (i *Issuer) Subject(claims map[string]any) (user string, groups []string, err error) {
	input := map[string]any{"claims": claims}
	if i.claims.username == nil {
		return "", nil, fmt.Errorf("%w: the issuer was not loaded", ErrClaims)
	}
	if i.claims.require != nil {
		value, _, err := i.claims.require.Eval(input)
		if err != nil {
			return "", nil, i.refuse("require", "fails on them; a claim that it reads may be missing")
		}
		if value != types.True {
			return "", nil, i.refuse("require", "is not true of them")
		}
	}
	value, _, err := i.claims.username.Eval(input)
	if err != nil {
		return "", nil, i.refuse("username", "fails on them; a claim that it reads may be missing")
	}
	name, ok := value.Value().(string)
	if !ok || name == "" || !isPlain(name, maxName) {
		return "", nil, i.refuse("username", "gives no usable name")
	}
	groups, err = i.groupsOf(input)
	if err != nil {
		return "", nil, err
	}
	return i.qualify(name), groups, nil
}

func (i *Issuer) groupsOf(input map[string]any) ([]string, error) {
	if i.claims.groups == nil {
		return nil, nil
	}
	value, _, err := i.claims.groups.Eval(input)
	if err != nil {
		return nil, i.refuse("groups", "fails on them; a claim that it reads may be missing")
	}
	var groups []string
	if one, ok := value.Value().(string); ok {
		groups = []string{one}
	} else {
		native, err := value.ConvertToNative(reflect.TypeFor[[]string]())
		if err != nil {
			return nil, i.refuse("groups", "gives neither text nor a list of texts")
		}
		groups, _ = native.([]string)
	}
	if len(groups) > maxGroups {
		return nil, i.refuse("groups", fmt.Sprintf("gives more than %d groups", maxGroups))
	}
	qualified := make([]string, len(groups))
	for n, group := range groups {
		if group == "" || !isPlain(group, maxName) {
			return nil, i.refuse("groups", "gives an unusable name")
		}
		qualified[n] = i.qualify(group)
	}
	return qualified, nil
}

func (i *Issuer) qualify(name string) string { return i.Name() + ":" + name }

func (i *Issuer) refuse(field, why string) error {
	return fmt.Errorf("%w: %s of Issuer/%s %s", ErrClaims, field, i.Name(), why)
}

// check compiles the expressions and reports what is wrong with the Issuer.
func (i *Issuer) check(d *document, e expressions) {
	spec := &i.Spec
	if slices.Contains(reserved(), i.Name()) {
		d.wrong("metadata.name", "%q is reserved for subjects that no token proves; choose another", i.Name())
	}
	if spec.URL == "" {
		d.wrong("spec.url", "is missing; write what tokens have as iss")
	} else if !isIssuerURL(spec.URL) {
		d.wrong("spec.url", "%q is not an issuer's URL; want https://host/path as tokens have it, without user, query and fragment", clip(spec.URL))
	}
	if spec.Audience == "" {
		d.wrong("spec.audience", "is missing; write what tokens for Postern have as aud")
	}
	if spec.CA != nil {
		spec.CA.check(d, "spec.ca")
	}
	if spec.Username == "" {
		d.wrong("spec.username", "is missing; say which claim names the user, as in claims.sub")
	}
	texts := cel.ListType(cel.StringType)
	i.claims = claims{
		username: compileField(d, "spec.username", e.claims, spec.Username, "text, as in claims.sub", cel.StringType, cel.DynType),
		groups: compileField(d, "spec.groups", e.claims, spec.Groups, "text or a list of texts, as in claims.groups",
			cel.StringType, cel.DynType, texts, cel.ListType(cel.DynType)),
		require: compileField(d, "spec.require", e.claims, spec.Require, "true or false, as in claims.ref == 'refs/heads/main'",
			cel.BoolType, cel.DynType),
	}
}

// compileField compiles a field that may be absent.
func compileField(d *document, path string, env *cel.Env, text, want string, allowed ...*cel.Type) cel.Program {
	if text == "" {
		return nil
	}
	program, err := compile(env, text, want, allowed...)
	if err != nil {
		d.wrong(path, "%v", err)
	}
	return program
}

func isIssuerURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.Opaque == "" &&
		u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && isPlain(text, 2048)
}
