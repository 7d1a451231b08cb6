package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// caFile is the run's CA certificate in a file. Its folder may be the guarded
// user's: it is held open, so that what it is exchanged for is not written to.
type caFile struct {
	folder *os.Root
	name   string
}

// writeCA writes the certificate. What lies at path is replaced, not followed.
func writeCA(path string, pem []byte) (*caFile, error) {
	folder, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("write CA certificate: %w", err)
	}
	f := &caFile{folder: folder, name: filepath.Base(path)}
	if err := f.write(pem); err != nil {
		return nil, errors.Join(fmt.Errorf("write CA certificate: %w", err), folder.Close())
	}
	return f, nil
}

func (f *caFile) write(pem []byte) error {
	temporary := ".postern-ca-" + rand.Text()
	file, err := f.folder.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(pem)
	err = errors.Join(err, file.Chmod(0o644), file.Close()) // whatever the caller's umask
	if err == nil {
		err = f.folder.Rename(temporary, f.name)
	}
	if err != nil {
		return errors.Join(err, f.folder.Remove(temporary))
	}
	return nil
}

// remove removes the file. Its user may have done so already.
func (f *caFile) remove() {
	_ = f.folder.Remove(f.name)
	f.folder.Close()
}
