// Package e2e tests what deploy/ installs on a real Kubernetes: the chart is
// applied to the one-node cluster of testenv/cluster, and guarded workloads talk
// to a real PostgreSQL. It has no code of its own outside its tests.
//
//	main_test.go     the cluster, the chart: once for all tests
//	cluster_test.go  kubectl, the node, its trail
//	world_test.go    a database, its Target, and clients in a namespace of their own
package e2e
