package policy

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeStatus is what one node's agent sees. Agents write it, nobody configures
// anything by it. It has the name of its Node, belongs to it, and goes with it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=nodestatuses,categories=postern
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.status.agent`
// +kubebuilder:printcolumn:name="Armed",type=string,JSONPath=`.status.conditions[?(@.type=="Armed")].status`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.armedSince`
// +kubebuilder:printcolumn:name="Guarded",type=integer,JSONPath=`.status.guarded`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Seen",type=date,JSONPath=`.status.observed`
// +kubebuilder:printcolumn:name="Policy",type=string,priority=1,JSONPath=`.status.policyHash`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Armed")].message`
type NodeStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status NodeState `json:"status,omitzero"`
}

// NodeState is what a node's agent sees.
type NodeState struct {
	// Version of the agent.
	Agent string `json:"agent,omitempty"`
	// Release of the kernel that it runs on.
	Kernel string `json:"kernel,omitempty"`
	// When the agent last said all this.
	Observed *metav1.Time `json:"observed,omitempty"`
	// Since when the kernel refuses what is not decided, without a gap.
	ArmedSince *metav1.Time `json:"armedSince,omitempty"`
	// The content of the objects that the agent decides by: sha256 and 64 digits.
	PolicyHash string `json:"policyHash,omitempty"`
	// The newest checkpoint of the agent's audit trail, signed: what its first records are. It
	// is here so that it outlives the node's disk: postern audit verify compares a trail with it.
	// +kubebuilder:validation:MaxLength=4096
	Checkpoint string `json:"checkpoint,omitempty"`
	// Whether the node is armed, its pods are held, and its objects are fresh.
	Conditions Conditions `json:"conditions,omitempty"`
	// How many pods of the node are guarded.
	Guarded *int32 `json:"guarded,omitempty"`
	// Guarded pods that cannot be held, and why.
	// +kubebuilder:validation:MaxItems=500
	NotEnforceable []NodePod `json:"notEnforceable,omitempty"`
	// The Targets, as this node sees them.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=1000
	Targets []NodeTarget `json:"targets,omitempty"`
	// The AccessPolicies that match pods of this node.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=1000
	Policies []NodePolicy `json:"policies,omitempty"`
	// Objects that this agent does not accept, and whose last good version it may still follow.
	// +listType=map
	// +listMapKey=object
	// +kubebuilder:validation:MaxItems=1000
	Rejected []NodeRejection `json:"rejected,omitempty"`
}

// NodePod is a guarded pod that cannot be held.
type NodePod struct {
	// The pod's namespace.
	Namespace string `json:"namespace"`
	// The pod's name.
	Name string `json:"name"`
	// What of the pod or its node stands in the way.
	// +kubebuilder:validation:MaxItems=20
	Reasons []string `json:"reasons,omitempty"`
}

// NodeTarget is a Target as one node sees it.
type NodeTarget struct {
	// The Target's name.
	Name string `json:"name"`
	// Every address at which it is guarded, as address:port.
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	Addresses []string `json:"addresses,omitempty"`
	// When the agent last logged in there.
	LastLogin *metav1.Time `json:"lastLogin,omitempty"`
	// Why the last log-in failed; absent: it did not.
	// +kubebuilder:validation:MaxLength=1024
	LoginError string `json:"loginError,omitempty"`
	// What the Target names and this node misses: Services, Secrets, and why.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=1024
	Missing []string `json:"missing,omitempty"`
	// Sensitive columns that are on the server, as the Target's spec writes them.
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	SensitiveFound []string `json:"sensitiveFound,omitempty"`
	// Sensitive columns that are not on the server.
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	SensitiveMissing []string `json:"sensitiveMissing,omitempty"`
}

// NodePolicy is an AccessPolicy as one node sees it.
type NodePolicy struct {
	// The policy's name.
	Name string `json:"name"`
	// How many guarded pods of the node match it.
	Pods int32 `json:"pods"`
	// What the policy names and this node misses: its Secret, and why.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=1024
	Missing []string `json:"missing,omitempty"`
}

// NodeRejection is an object that an agent does not accept.
type NodeRejection struct {
	// The object, as Kind/name.
	Object string `json:"object"`
	// What is wrong with it.
	// +kubebuilder:validation:MaxLength=4096
	Reason string `json:"reason"`
}
