package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"postern.dev/postern/testenv/cluster/layout"
)

// storeDB is containerd's list of what it has. Its schema: containerd 2.4,
// core/metadata/buckets.go; v1/NAMESPACE/KIND/NAME.
const storeDB = "io.containerd.metadata.v1.bolt/meta.db"

// RecycleStore leaves of an earlier cluster's containerd what a new cluster has
// use for, its images: unpacking them takes longer than all the rest of a start.
// Containers, sandboxes and leases are forgotten, and images that have lost their
// tag; containerd collects what then belongs to nobody when it starts.
func RecycleStore(dir layout.Dir) error {
	path := dir.Path("containerd", storeDB)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(dir.Path("containerd")) // nothing, or nothing of use
	}
	for _, kept := range []string{"io.containerd.grpc.v1.cri", "io.containerd.runtime.v2.task"} {
		if err := os.RemoveAll(dir.Path("containerd", kept)); err != nil {
			return err
		}
	}
	db, err := bbolt.Open(path, 0o644, &bbolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		return fmt.Errorf("open containerd's store: %w", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		namespace := descend(tx.Bucket([]byte("v1")), "k8s.io")
		if namespace == nil {
			return nil
		}
		for _, kind := range []string{"containers", "sandboxes", "leases"} {
			if err := namespace.DeleteBucket([]byte(kind)); err != nil && !errors.Is(err, bbolterrors.ErrBucketNotFound) {
				return err
			}
		}
		return forgetUntagged(namespace.Bucket([]byte("images")))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("recycle containerd's store: %w", err)
	}
	return nil
}

// forgetUntagged deletes the names that the CRI plugin gives images by their ID,
// where no tag leads to the same image any more.
func forgetUntagged(images *bbolt.Bucket) error {
	if images == nil {
		return nil
	}
	target := func(name []byte) string {
		return string(descend(images.Bucket(name), "target").Get([]byte("digest")))
	}
	tagged := map[string]bool{}
	var byID [][]byte
	err := images.ForEachBucket(func(name []byte) error {
		if bytes.HasPrefix(name, []byte("sha256:")) {
			byID = append(byID, bytes.Clone(name))
		} else {
			tagged[target(name)] = true
		}
		return nil
	})
	for _, name := range byID {
		if err == nil && !tagged[target(name)] {
			err = images.DeleteBucket(name)
		}
	}
	return err
}

func descend(bucket *bbolt.Bucket, name string) *bbolt.Bucket {
	if bucket == nil {
		return nil
	}
	return bucket.Bucket([]byte(name))
}
