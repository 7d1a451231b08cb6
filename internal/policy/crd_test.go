package policy

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// resource is a custom resource as an API server checks it.
type resource struct {
	definition *apiextensions.CustomResourceDefinition
	schema     *apiextensions.JSONSchemaProps
	structure  *structural.Structural
}

// resources reads the generated definitions, by kind.
func resources(t *testing.T) map[string]resource {
	t.Helper()
	paths, err := filepath.Glob("../../deploy/chart/crds/*.yaml")
	if err != nil || len(paths) != 4 {
		t.Fatalf("got %v and error %v, want four definitions", paths, err)
	}
	all := map[string]resource{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var external apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(data, &external); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		apiextensionsv1.SetDefaults_CustomResourceDefinition(&external)
		apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&external.Spec)
		definition := new(apiextensions.CustomResourceDefinition)
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&external, definition, nil); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		definition.Status.StoredVersions = []string{"v1alpha1"}
		schema := definition.Spec.Validation // of all versions, where there is one
		if schema == nil {
			schema = definition.Spec.Versions[0].Schema
		}
		structure, err := structural.NewStructural(schema.OpenAPIV3Schema)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all[definition.Spec.Names.Kind] = resource{definition, schema.OpenAPIV3Schema, structure}
	}
	return all
}

// check says what an API server has against a new object.
func (r resource) check(t *testing.T, object map[string]any) field.ErrorList {
	t.Helper()
	for _, path := range pruning.PruneWithOptions(object, r.structure, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		return field.ErrorList{field.Invalid(field.NewPath(path), nil, "unknown field")} // kubectl asks for strict validation
	}
	defaulting.Default(object, r.structure)
	validator, _, err := schemavalidation.NewSchemaValidator(r.schema)
	if err != nil {
		t.Fatal(err)
	}
	errs := schemavalidation.ValidateCustomResource(nil, object, validator)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structure, object)...)
	rules := cel.NewValidator(r.structure, true, celconfig.PerCallLimit)
	more, _ := rules.Validate(t.Context(), nil, r.structure, object, nil, celconfig.RuntimeCELCostBudget)
	return append(errs, more...)
}

// objects splits a file into its documents as kubectl reads them.
func objects(t *testing.T, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if object != nil {
			all = append(all, object)
		}
	}
	return all
}

func TestAPIServerTakesTheDefinitions(t *testing.T) {
	for kind, r := range resources(t) {
		t.Run(kind, func(t *testing.T) {
			if errs := validation.ValidateCustomResourceDefinition(context.Background(), r.definition); len(errs) > 0 {
				t.Errorf("got %v, want none", errs.ToAggregate())
			}
			if got := r.definition.Spec.Scope; got != apiextensions.ClusterScoped {
				t.Errorf("got scope %s, want Cluster", got)
			}
		})
	}
}

func TestKubectlExplainsEveryField(t *testing.T) {
	for kind, r := range resources(t) {
		for _, path := range undescribed(*r.schema, kind) {
			t.Errorf("got no description of %s, want one", path)
		}
	}
}

// undescribed lists the fields of a schema without a description that reads well.
func undescribed(s apiextensions.JSONSchemaProps, path string) []string {
	var paths []string
	text := s.Description
	if text == "" || strings.Contains(text, "+kubebuilder") || strings.Contains(text, "Shape:") || strings.Contains(text, "---") {
		paths = append(paths, path)
	}
	for name, p := range s.Properties {
		if name != "metadata" || path == "" {
			paths = append(paths, undescribed(p, path+"."+name)...)
		}
	}
	if s.Items != nil && s.Items.Schema.Type == "object" {
		for name, p := range s.Items.Schema.Properties {
			paths = append(paths, undescribed(p, path+"[]."+name)...)
		}
	}
	return paths
}

// TestDefinitionsAndDecoderAgree walks both: a field that one of them knows, and a
// choice or word that one of them takes, the other knows and takes.
func TestDefinitionsAndDecoderAgree(t *testing.T) {
	all := resources(t)
	for kind, object := range map[string]any{"Target": TargetSpec{}, "AccessPolicy": AccessPolicySpec{}, "Issuer": IssuerSpec{}} {
		agree(t, kind+".spec", all[kind].schema.Properties["spec"], reflect.TypeOf(object))
	}
	rule := all["AccessPolicy"].schema.Properties["spec"].Properties["rules"].Items.Schema
	want := append(wordNames(), "READ", "WRITE", "ALL")
	for _, key := range []string{"allow", "deny"} {
		if got := enum(*rule.Properties[key].Items.Schema); !slices.Equal(got, want) {
			t.Errorf("got words %v in %s, want %v", got, key, want)
		}
	}
	if root := all["Issuer"].schema; !slices.ContainsFunc(root.XValidations, func(r apiextensions.ValidationRule) bool {
		return strings.Contains(r.Rule, "'"+strings.Join(reserved(), "', '")+"'")
	}) {
		t.Errorf("got no rule of the definition that reserves %v, want one", reserved())
	}
}

func agree(t *testing.T, path string, s apiextensions.JSONSchemaProps, decoded reflect.Type) {
	t.Helper()
	switch decoded.Kind() {
	case reflect.Pointer:
		agree(t, path, s, decoded.Elem())
	case reflect.Slice:
		agree(t, path+"[]", *s.Items.Schema, decoded.Elem())
	case reflect.Struct:
		names := fieldNames(decoded)
		for name := range s.Properties {
			if !slices.Contains(names, name) {
				t.Errorf("got %s.%s in the definition alone, want it in both", path, name)
			}
		}
		for field := range decoded.Fields() {
			if name := keyOf(field); name != "" {
				if _, ok := s.Properties[name]; !ok {
					t.Errorf("got %s.%s in the decoder alone, want it in both", path, name)
					continue
				}
				agree(t, path+"."+name, s.Properties[name], field.Type)
			}
		}
	case reflect.String:
		if c, ok := reflect.Zero(decoded).Interface().(choice); ok {
			built, _ := c.choices()
			got := enum(s)
			slices.Sort(got)
			slices.Sort(built)
			if !slices.Equal(got, built) {
				t.Errorf("got choices %v for %s, want %v", got, path, built)
			}
		}
	}
}

func enum(s apiextensions.JSONSchemaProps) []string {
	var values []string
	for _, value := range s.Enum {
		text, _ := value.(string)
		values = append(values, text)
	}
	return values
}

// clusterExamples reads the examples that are for a cluster, by file.
func clusterExamples(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../deploy/examples/cluster/*.yaml")
	if err != nil || len(paths) < 4 {
		t.Fatalf("got %v and error %v, want the examples", paths, err)
	}
	texts := map[string]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(data)
	}
	return texts
}

func TestAPIServerTakesTheExamples(t *testing.T) {
	all := resources(t)
	for path, text := range clusterExamples(t) {
		for _, object := range objects(t, text) {
			kind, _ := object["kind"].(string)
			if errs := all[kind].check(t, object); len(errs) > 0 {
				t.Errorf("%s: got %v, want none", path, errs.ToAggregate())
			}
		}
	}
}

func TestAPIServerRefusesWhatTheDefinitionsForbid(t *testing.T) {
	const (
		target = "apiVersion: postern.dev/v1alpha1\nkind: Target\nmetadata: {name: db}\nspec: {protocol: postgres, %s}"
		policy = "apiVersion: postern.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {targets: [db], %s}"
		rules  = "apiVersion: postern.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {targets: [db], subjects: [{namespaces: [a]}], rules: [%s]}"
		issuer = "apiVersion: postern.dev/v1alpha1\nkind: Issuer\nmetadata: {name: %s}\nspec: {audience: postern, username: claims.sub, %s}"
	)
	all := resources(t)
	for _, row := range []struct{ name, object, want string }{
		{"a Target", strings.ReplaceAll(target, "%s", "hosts: [db], credential: {client: true}"), ""},
		{"a Target without an address", strings.ReplaceAll(target, "%s", "ports: [1]"), "name the server: hosts, services or both"},
		{"an unknown key", strings.ReplaceAll(target, "%s", "hosts: [db], colour: blue"), "unknown field"},
		{"a CIDR without a name", strings.ReplaceAll(target, "%s", "hosts: [10.0.0.0/8]"), "hosts has a CIDR: write tls.serverName"},
		{"a CIDR with a name", strings.ReplaceAll(target, "%s", "hosts: [10.0.0.0/8], tls: {serverName: db}"), ""},
		{"a CIDR that nothing proves", strings.ReplaceAll(target, "%s", "hosts: [10.0.0.0/8], tls: {mode: require}"), ""},
		{"an unproven server from the pod", strings.ReplaceAll(target, "%s", "hosts: [db], source: pod, tls: {mode: require}"), "source pod needs tls.mode verify-full"},
		{"a proven server from the pod", strings.ReplaceAll(target, "%s", "hosts: [db], source: pod, tls: {serverName: db}"), ""},
		{"a name that is not proven", strings.ReplaceAll(target, "%s", "hosts: [db], tls: {mode: disable, serverName: db}"), "serverName and ca are for mode verify-full"},
		{"a file", strings.ReplaceAll(target, "%s", "hosts: [db], credential: {file: /a}"), "an agent in a cluster reads no files"},
		{"certificates in a file", strings.ReplaceAll(target, "%s", "hosts: [db], tls: {ca: {file: /a}}"), "an agent in a cluster reads no files"},
		{"two credentials", strings.ReplaceAll(target, "%s", "hosts: [db], credential: {secret: a, client: true}"), "want either a secret, or client: true"},
		{"no credential", strings.ReplaceAll(target, "%s", "hosts: [db], credential: {client: false}"), "want either a secret, or client: true"},
		{"a port twice", strings.ReplaceAll(target, "%s", "hosts: [db], ports: [1, 1]"), "Duplicate value"},
		{"a mask that YAML takes for nothing", strings.ReplaceAll(target, "%s", "hosts: [db], sensitive: [{columns: ['*.a'], mask: null}]"), "mask"},
		{"detectors", strings.ReplaceAll(target, "%s", "hosts: [db], sensitive: [{detect: [email, jwt], mask: 'null'}, {columns: ['*.a'], mask: redact}]"), ""},
		{"a detector that is none", strings.ReplaceAll(target, "%s", "hosts: [db], sensitive: [{detect: [zodiac], mask: redact}]"), "Unsupported value"},
		{"a detector twice", strings.ReplaceAll(target, "%s", "hosts: [db], sensitive: [{detect: [jwt, jwt], mask: redact}]"), "Duplicate value"},
		{"columns and detectors", strings.ReplaceAll(target, "%s", "hosts: [db], sensitive: [{columns: ['*.a'], detect: [jwt], mask: redact}]"), "either columns or detectors"},
		{"sensitive nothing", strings.ReplaceAll(target, "%s", "hosts: [db], sensitive: [{mask: redact}]"), "either columns or detectors"},
		{"a name with a dot", strings.ReplaceAll(strings.Replace(target, "name: db", "name: a.b", 1), "%s", "hosts: [db]"), "the name must be"},
		{"a selector of nobody", strings.ReplaceAll(policy, "%s", "subjects: [{}], rules: [{name: a, allow: [ALL]}]"), "should have at least 1 properties"},
		{"a user without an issuer", strings.ReplaceAll(policy, "%s", "subjects: [{users: [ada]}], rules: [{name: a, allow: [ALL]}]"), "should match"},
		{"a rule that does both", strings.ReplaceAll(rules, "%s", "{name: a, allow: [ALL], deny: [DDL]}"), "a rule has either allow or deny"},
		{"a rule that does neither", strings.ReplaceAll(rules, "%s", "{name: a}"), "a rule has either allow or deny"},
		{"a word that is none", strings.ReplaceAll(rules, "%s", "{name: a, allow: [select]}"), "Unsupported value"},
		{"two rules of one name", strings.ReplaceAll(rules, "%s", "{name: a, allow: [ALL]}, {name: a, deny: [DDL]}"), "Duplicate value"},
		{"a reason to allow", strings.ReplaceAll(rules, "%s", "{name: a, allow: [ALL], reason: so}"), "reason is told when a deny rule refuses"},
		{"a limited UNKNOWN", strings.ReplaceAll(rules, "%s", "{name: a, allow: [UNKNOWN], relations: ['a.b']}"), "of UNKNOWN no relation or function is known"},
		{"a deny of two", strings.ReplaceAll(rules, "%s", "{name: a, deny: [ALL], relations: ['a.b'], functions: ['a.b']}"), "make two rules of it"},
		{"an issuer", strings.Replace(strings.Replace(issuer, "%s", "ci", 1), "%s", "url: https://ci.example/a", 1), ""},
		{"an issuer in the clear", strings.Replace(strings.Replace(issuer, "%s", "ci", 1), "%s", "url: http://ci.example", 1), "should match"},
		{"a reserved issuer", strings.Replace(strings.Replace(issuer, "%s", "k8s", 1), "%s", "url: https://ci.example", 1), "the name is reserved"},
	} {
		t.Run(row.name, func(t *testing.T) {
			object := objects(t, row.object)[0]
			kind, _ := object["kind"].(string)
			errs := all[kind].check(t, object)
			if row.want == "" && len(errs) > 0 || row.want != "" && (len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), row.want)) {
				t.Errorf("got %v, want %q", errs.ToAggregate(), row.want)
			}
		})
	}
}
