package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A file is one of a layer: where it is in the image and where it comes from.
type file struct {
	path, source string
	mode         int64
}

// files makes a layer of single files, all root's. The same files make the same
// layer.
func (b Builder) files(base string, files []file) (layer, error) {
	sum := sha256.New()
	for _, f := range files {
		fmt.Fprintln(sum, f.path, f.mode)
		if err := hashFile(sum, f.source); err != nil {
			return layer{}, err
		}
	}
	l := layer{file: b.Dir.Path("images", base+".layer.tar"), key: hex.EncodeToString(sum.Sum(nil))}
	_, err := b.once(l.file, l.key, func(target string) error { return writeFiles(target, files) })
	return l, err
}

func writeFiles(target string, files []file) (err error) {
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	archive := tar.NewWriter(out)
	for _, f := range files {
		if err := writeFile(archive, f); err != nil {
			return fmt.Errorf("add %s: %w", f.path, err)
		}
	}
	return archive.Close()
}

func writeFile(archive *tar.Writer, f file) error {
	source, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{
		Name: f.path[1:], Typeflag: tar.TypeReg, Mode: f.mode, Size: info.Size(),
		ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, source)
	return err
}
