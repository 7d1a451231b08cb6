package policy

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Target is what is protected, and how Postern itself gets in.
//
// ---
// Shape: as [Load] and [Compile] return it, checked and with its defaults filled
// in; it must not be changed. Here and below, the tag planned lists keys that are
// announced but not built: they are refused as such, and other keys as unknown.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=postern
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Protocol",type=string,JSONPath=`.spec.protocol`
// +kubebuilder:printcolumn:name="Hosts",type=string,JSONPath=`.spec.hosts`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Verified",type=string,JSONPath=`.status.conditions[?(@.type=="VerifiedTLS")].status`
// +kubebuilder:printcolumn:name="Last log-in",type=date,JSONPath=`.status.lastLogin`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="References",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="References")].status`
// +kubebuilder:printcolumn:name="Sensitive",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Sensitive")].status`
// +kubebuilder:printcolumn:name="Services",type=string,priority=1,JSONPath=`.spec.services[*].name`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].message`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",message="the name must be at most 63 of a-z, 0-9 and -"
type Target struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TargetSpec `json:"spec"`
	// +optional
	Status TargetStatus `json:"status,omitzero"`

	hosts     hosts     `json:"-"`
	sensitive Sensitive `json:"-"`
	source    Source    `json:"-"` // as the author wrote it; "": not at all
	digest    digest    `json:"-"`
}

// TargetSpec describes a server, how it is proven, and how Postern logs in.
//
// +kubebuilder:validation:XValidation:rule="has(self.hosts) || has(self.services)",message="name the server: hosts, services or both"
// +kubebuilder:validation:XValidation:rule="!has(self.source) || self.source != 'pod' || !has(self.tls) || !has(self.tls.mode) || self.tls.mode == 'verify-full'",message="source pod needs tls.mode verify-full: a pod can read and forge what leaves its own namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.hosts) || !self.hosts.exists(h, h.contains('/')) || (has(self.tls) && (has(self.tls.serverName) || (has(self.tls.mode) && self.tls.mode != 'verify-full')))",message="hosts has a CIDR: write tls.serverName, the name that every server there proves"
type TargetSpec struct {
	_ struct{} `json:"-" planned:"clientPassword"`

	// What the server speaks: postgres.
	Protocol Protocol `json:"protocol"`
	// Names, addresses and CIDRs of the server, as clients write them. Postern dials these and services only.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Hosts []string `json:"hosts,omitempty"`
	// Services of the cluster that lead to the server. Every address of theirs is guarded; in a cluster only.
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Services []ServiceReference `json:"services,omitempty"`
	// Ports of the server; 5432 where absent.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int `json:"ports,omitempty"`
	// Absolute paths of the server's unix sockets on the machine of the client; connecting there is refused.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=107
	// +kubebuilder:validation:items:Pattern=`^/`
	Sockets []string `json:"sockets,omitempty"`
	// What becomes of the Target's ports on addresses of no Target: refuse (default) or pass.
	UnknownHosts Answer `json:"unknownHosts,omitempty"`
	// What becomes of other ports on the Target's addresses: pass (default) or refuse.
	OtherPorts Answer `json:"otherPorts,omitempty"`
	// How Postern proves the server.
	TLS TLS `json:"tls,omitzero"`
	// What Postern logs in with, where no AccessPolicy says.
	Credential *TargetCredential `json:"credential,omitempty"`
	// Columns whose values, and kinds of values that, never leave unmasked.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	Sensitive []SensitiveRule `json:"sensitive,omitempty"`
	// Refuse the Target to pods that are not guarded, too; in a cluster only.
	Exclusive bool `json:"exclusive,omitempty"`
	// The network namespace from which Postern dials: pod (default in a cluster) or node (default of postern run, with weaker than verified TLS, and for pods of a service mesh).
	Source Source `json:"source,omitempty"`
}

// ServiceReference names a Service.
type ServiceReference struct {
	// The Service's namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// The Service's name.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
}

// TLS says how Postern proves the server to which it dials.
//
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode == 'verify-full' || (!has(self.serverName) && !has(self.ca))",message="serverName and ca are for mode verify-full; other modes verify no certificate"
type TLS struct {
	// verify-full (default) proves the server's name, require encrypts and proves nothing, disable does neither.
	Mode TLSMode `json:"mode,omitempty"`
	// The name that the certificate must prove; needed with a CIDR or several names.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ServerName string `json:"serverName,omitempty"`
	// Certificates to trust, of a Secret its key ca.crt; absent: the system's.
	CA *Reference `json:"ca,omitempty"`
}

// TargetCredential says what Postern logs in with: a login, or what the client presents.
//
// +kubebuilder:validation:XValidation:rule="!has(self.file)",message="name a secret; file is for postern run, an agent in a cluster reads no files"
// +kubebuilder:validation:XValidation:rule="has(self.secret) != (has(self.client) && self.client)",message="want either a secret, or client: true"
type TargetCredential struct {
	// Absolute path of {username, password}; for postern run only.
	// +kubebuilder:validation:MaxLength=4096
	File string `json:"file,omitempty"`
	// Name of a Secret in Postern's own namespace, with username and password; in a cluster only.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Secret string `json:"secret,omitempty"`
	// Log in with what the client presents, and keep it nowhere.
	Client bool `json:"client,omitempty"`
}

// SensitiveRule masks the values of columns, or what detectors find in any text.
//
// +kubebuilder:validation:XValidation:rule="has(self.columns) != has(self.detect)",message="a rule names either columns or detectors; make two rules of it"
type SensitiveRule struct {
	// The columns: "public.users.email" is one, "*.ssn" that column of any table.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=400
	Columns []string `json:"columns,omitempty"`
	// Kinds of values to find by their form in all text that leaves, whatever column or expression it comes from: email, credit-card, iban, ssn, phone, jwt, private-key, api-token.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Detect []Detector `json:"detect,omitempty"`
	// What becomes of the values: redact, or "null" (in quotes), which makes the whole of a value NULL that a detector finds something in.
	Mask Mask `json:"mask"`
}

// TargetStatus is what the agents and the controller see of a Target.
type TargetStatus struct {
	// The generation of the object that this is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Whether the Target is accepted, resolved, logged in to and proven.
	Conditions Conditions `json:"conditions,omitempty"`
	// Every address at which the Target is guarded, as address:port.
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	Addresses []string `json:"addresses,omitempty"`
	// When an agent last logged in there.
	LastLogin *metav1.Time `json:"lastLogin,omitempty"`
	// Sensitive columns that are on the server, as the spec writes them.
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	SensitiveFound []string `json:"sensitiveFound,omitempty"`
	// Sensitive columns that are not on the server.
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	SensitiveMissing []string `json:"sensitiveMissing,omitempty"`
}
