package policy

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AccessPolicy says who may do what on which Targets.
//
// ---
// Shape: as [Load] and [Compile] return it, checked and with its defaults filled
// in; it must not be changed.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=accesspolicies,categories=postern
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Targets",type=string,JSONPath=`.spec.targets`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="References",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="References")].status`
// +kubebuilder:printcolumn:name="Ambiguous with",type=string,priority=1,JSONPath=`.status.ambiguousWith`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].message`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",message="the name must be at most 63 of a-z, 0-9 and -"
type AccessPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AccessPolicySpec `json:"spec"`
	// +optional
	Status AccessPolicyStatus `json:"status,omitzero"`

	rules  []*rule `json:"-"`
	digest digest  `json:"-"`
}

// AccessPolicySpec describes who may do what. What no policy allows is refused.
type AccessPolicySpec struct {
	_ struct{} `json:"-" planned:"requireInitiator unmask use aggregates limits"`

	// Whom the policy is about: any of these.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	Subjects []Selector `json:"subjects"`
	// Names of the Targets that it is about.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Targets []string `json:"targets"`
	// What Postern logs in with for these subjects: {username, password}; absent: the Target's.
	Credential *Reference `json:"credential,omitempty"`
	// enforce (default) decides; observe refuses nothing, and records what it would.
	// +kubebuilder:default=enforce
	Mode Mode `json:"mode,omitempty"`
	// Refuse whom the kernel alone proves: a pod without a projected token, a Linux user.
	RequireToken bool `json:"requireToken,omitempty"`
	// Which records are on disk before what goes on: strict, reply, balanced (default) or relaxed.
	// +kubebuilder:default=balanced
	Durability Durability `json:"durability,omitempty"`
	// Which values the trail holds: full, redacted (default) or none.
	// +kubebuilder:default=redacted
	Record Record `json:"record,omitempty"`
	// What is allowed and denied. A deny that matches refuses, whatever is allowed.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	Rules []Rule `json:"rules"`
}

// Selector chooses subjects: those that match each of its fields. A list is
// matched by any of its entries, podLabels by a pod that has them all.
//
// +kubebuilder:validation:MinProperties=1
type Selector struct {
	_ struct{} `json:"-" planned:"initiators"`

	// Whom a token, or the kernel, proves: "<issuer>:<name>", "linux:<name>" or "k8s:system:serviceaccount:<namespace>:<name>".
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=320
	// +kubebuilder:validation:items:Pattern=`^[^:]+:.+`
	Users []string `json:"users,omitempty"`
	// Their groups: "<issuer>:<name>", "linux:<name>" or "k8s:system:serviceaccounts:<namespace>".
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=320
	// +kubebuilder:validation:items:Pattern=`^[^:]+:.+`
	Groups []string `json:"groups,omitempty"`
	// Namespaces of pods; in a cluster only, as are the next two.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Namespaces []string `json:"namespaces,omitempty"`
	// Labels of pods, all of them. Whoever creates a pod chooses its labels: name its namespace as well.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=100
	PodLabels map[string]string `json:"podLabels,omitempty"`
	// Names of pods' service accounts, in whatever namespace: name that as well.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`
}

// Rule allows or denies what it describes. A field that is absent limits nothing,
// but for functions of an allow rule, where it allows harmless built-ins only.
//
// +kubebuilder:validation:XValidation:rule="has(self.allow) != has(self.deny)",message="a rule has either allow or deny"
// +kubebuilder:validation:XValidation:rule="!has(self.reason) || has(self.deny)",message="reason is told when a deny rule refuses; take it away from a rule that allows"
// +kubebuilder:validation:XValidation:rule="!has(self.deny) || !has(self.relations) || !has(self.functions)",message="denies by relations and by functions: make two rules of it, either alone is then enough"
// +kubebuilder:validation:XValidation:rule="!has(self.allow) || !('UNKNOWN' in self.allow) || (!has(self.relations) && !has(self.functions))",message="of UNKNOWN no relation or function is known: give it a rule without relations and functions"
type Rule struct {
	_ struct{} `json:"-" planned:"maxRows groups resources namespaces"`

	// What refusals and records call the rule.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
	Name string `json:"name"`
	// Words and groups of words: SELECT, INSERT, DDL, READ, WRITE, ALL and so on.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=24
	// +kubebuilder:validation:items:Enum=SELECT;INSERT;UPDATE;DELETE;MERGE;TRUNCATE;COPY-IN;COPY-OUT;CALL;DO;DDL;DCL;MAINTENANCE;LISTEN;NOTIFY;LOCK;SET;FUNCTION-CALL;REPLICATION;SESSION;UNKNOWN;READ;WRITE;ALL
	Allow []string `json:"allow,omitempty"`
	// Likewise; a rule allows or denies.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=24
	// +kubebuilder:validation:items:Enum=SELECT;INSERT;UPDATE;DELETE;MERGE;TRUNCATE;COPY-IN;COPY-OUT;CALL;DO;DDL;DCL;MAINTENANCE;LISTEN;NOTIFY;LOCK;SET;FUNCTION-CALL;REPLICATION;SESSION;UNKNOWN;READ;WRITE;ALL
	Deny []string `json:"deny,omitempty"`
	// Names of databases.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Databases []string `json:"databases,omitempty"`
	// Tables, views and sequences: "schema.name", either may be *.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=270
	Relations []string `json:"relations,omitempty"`
	// Functions that SELECT does not imply: "schema.name", either may be *.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=270
	Functions []string `json:"functions,omitempty"`
	// A condition in CEL over statement, workload, target and now.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	When string `json:"when,omitempty"`
	// What whoever is refused is told.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	Reason string `json:"reason,omitempty"`
}

// AccessPolicyStatus is what the agents and the controller see of an AccessPolicy.
type AccessPolicyStatus struct {
	// The generation of the object that this is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Whether the policy is accepted, or why not.
	Conditions Conditions `json:"conditions,omitempty"`
	// How many guarded pods match one of its subjects.
	Pods *int32 `json:"pods,omitempty"`
	// Policies that name another credential and may match the same subject, who is then refused.
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	AmbiguousWith []string `json:"ambiguousWith,omitempty"`
}
