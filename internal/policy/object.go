package policy

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// APIVersion is the version of the objects that this package reads.
const APIVersion = "postern.dev/v1alpha1"

// Group is the API group of the objects.
//
// controller-gen makes deploy/chart/crds from the types of this package: what
// stands above a field is its description there, and a marker (+kubebuilder)
// what the API server checks of it. [Compile] checks that again, and more.
const Group = "postern.dev"

// The types of the objects' conditions.
const (
	ConditionAccepted    = "Accepted"    // it counts; else the message says why not
	ConditionReferences  = "References"  // Targets, Secrets and Services that it names are there
	ConditionUnambiguous = "Unambiguous" // AccessPolicy: no subject gets two credentials by it and another
	ConditionVerifiedTLS = "VerifiedTLS" // Target: the server is proven before a credential leaves
	ConditionResolved    = "Resolved"    // Target: every agent knows an address of it
	ConditionLoggedIn    = "LoggedIn"    // Target: the last log-in succeeded
	ConditionSensitive   = "Sensitive"   // Target: every sensitive column was found on the server
	ConditionArmed       = "Armed"       // NodeStatus: the node's programs are attached and fed
	ConditionEnforced    = "Enforced"    // NodeStatus: every guarded pod of the node can be held
	ConditionFresh       = "Fresh"       // NodeStatus: the API server answers, objects are not older than they may be
)

// Reference names a file, for a command that postern run guards, or in a
// cluster a Secret in Postern's own namespace.
//
// +kubebuilder:validation:XValidation:rule="has(self.secret) && !has(self.file)",message="name a secret; file is for postern run, an agent in a cluster reads no files"
type Reference struct {
	// Absolute path; for postern run only.
	// +kubebuilder:validation:MaxLength=4096
	File string `json:"file,omitempty"`
	// Name of a Secret in Postern's own namespace; in a cluster only.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Secret string `json:"secret,omitempty"`
}

// Conditions say what holds of an object; each type is there once.
//
// +listType=map
// +listMapKey=type
// +kubebuilder:validation:MaxItems=16
type Conditions []metav1.Condition
