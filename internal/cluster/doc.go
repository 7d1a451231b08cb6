// Package cluster tells a node's agent what the Kubernetes API knows and the
// agent has to: the pods of its own node, which namespaces are guarded, the
// policy objects, the addresses under which Services are reached, and the
// Secrets that Targets name. It says back what the agent has to tell: Events on
// pods, and the node's NodeStatus.
//
//	list, watch ──▶ stores ──▶ Snapshot ──▶ the agent ──▶ Reach.Guarded, Reach.Dialled
//	get one Secret on use ───────────────▶ the agent ──▶ Event, Report
//
// A [Snapshot] never changes. The first one is made when every store is
// complete; a burst of changes makes one. What is cut away before an object is
// stored is in strip.go, why a pod is guarded in guard.go, and which mesh takes what
// is dialled for it in mesh.go; which addresses lead to a Target is in reach.go, which
// knows no API client.
//
// # The guard is sticky here
//
// A pod that was guarded once stays so until its UID is gone, whatever becomes
// of the labels: [Watcher] keeps the UIDs, and the file of [Config].File carries
// them over a restart of the agent. The kernel's map keeps them too.
//
// # While the API server is away
//
// A running agent keeps its last Snapshot, and the Secrets that it has read;
// [Snapshot].Stale and [Watcher.Stale] say for how long nobody has confirmed it.
// That is noticed within 15 s, and within a minute that it is over. An agent that starts meanwhile takes
// the last Snapshot from [Config].File, if there is one, as old as it is. The
// file has no Secrets: who needs one is refused until the API server is back.
//
// # Rights
//
// All that this package asks for, and the chart grants, cluster-wide:
//
//	""               pods, namespaces, nodes, services      list, watch
//	discovery.k8s.io endpointslices                         list, watch
//	postern.dev      targets, accesspolicies, issuers       list, watch
//	postern.dev      nodestatuses                           create, patch
//	postern.dev      nodestatuses/status                    patch
//	""               events                                 create, patch
//	nonResourceURLs  what the agent asks [Watcher.Get] for  get
//
// and in Postern's own namespace:
//
//	""               secrets                                get
//	""               namespaces, of the name of this one    get
//
// Pods are listed and watched with the field selector spec.nodeName, namespaces
// as metadata alone. No Secret is listed or watched. The tests of e2e_test.go, which
// need a real API server, run with these rights and no others.
package cluster
