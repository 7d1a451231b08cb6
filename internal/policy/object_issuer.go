package policy

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Issuer says whose tokens prove an identity, and how their claims name a user.
// The cluster's own issuer needs none.
//
// ---
// Shape: as [Load] and [Compile] return it, checked; it must not be changed.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=postern
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.spec.url`
// +kubebuilder:printcolumn:name="Audience",type=string,JSONPath=`.spec.audience`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].message`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",message="the name must be at most 63 of a-z, 0-9 and -"
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name in ['linux', 'k8s', 'pod'])",message="the name is reserved for subjects that no Issuer proves; choose another"
type Issuer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IssuerSpec `json:"spec"`
	// +optional
	Status IssuerStatus `json:"status,omitzero"`

	claims claims `json:"-"`
	digest digest `json:"-"`
}

// IssuerSpec describes an issuer of tokens. username, groups and require are CEL over the variable claims.
type IssuerSpec struct {
	// https; the iss of its tokens.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https://[^/?#@]+(/[^?#]*)?$`
	URL string `json:"url"`
	// Whom its tokens must be meant for.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Audience string `json:"audience"`
	// Gives the user's name, a string.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Username string `json:"username"`
	// Gives the user's groups, a string or a list of strings.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Groups string `json:"groups,omitempty"`
	// Must be true of a token that counts.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Require string `json:"require,omitempty"`
	// Certificates to trust when its keys are fetched, of a Secret its key ca.crt; absent: the system's.
	CA *Reference `json:"ca,omitempty"`
}

// IssuerStatus is what the controller sees of an Issuer.
type IssuerStatus struct {
	// The generation of the object that this is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Whether the Issuer is accepted, or why not.
	Conditions Conditions `json:"conditions,omitempty"`
}
