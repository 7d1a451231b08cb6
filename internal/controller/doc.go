// Package controller does what a cluster needs once: it checks the policy
// objects, tells in their status what all nodes see of them, and makes the key
// that certifies the agents' logs. Agents do not need it to go on: what it says
// is for people, and every agent checks the objects itself.
//
//	Target, AccessPolicy, Issuer ─▶ policy.Compile ─▶ Accepted, References, …  ─▶ their status
//	NodeStatus of every node     ─▶ what holds on all of them                  ─┘
//
// One instance works at a time; a Lease says which.
//
// # Rights
//
//	postern.dev          targets, accesspolicies, issuers, nodestatuses             get, list, watch
//	postern.dev          targets/status, accesspolicies/status, issuers/status     patch
//
// and in Postern's own namespace:
//
//	coordination.k8s.io  leases               get, create, update
//	""                   secrets, configmaps  create; get of postern-operator-key
package controller
