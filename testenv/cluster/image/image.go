package image

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"

	"postern.dev/postern/testenv/cluster/layout"
)

// Image is an image in a file, ready to be imported.
type Image struct {
	Name string
	File string // what `docker save` would have written
	Key  string // changes when the image does
}

// Product builds Postern's own image, as its Dockerfile has it.
func (b Builder) Product(ctx context.Context) (Image, error) {
	binary, err := b.product(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("build the product: %w", err)
	}
	r, err := readRecipe(filepath.Join(b.Root, "deploy", "Dockerfile"), map[string]string{"TARGETARCH": "amd64", "VERSION": "dev", "REVISION": "unknown"})
	if err != nil {
		return Image{}, err
	}
	var files []file
	for _, c := range r.copies {
		if c[0] != "postern-linux-amd64" {
			return Image{}, fmt.Errorf("build the product's image: the Dockerfile copies %s, which nobody makes", c[0])
		}
		files = append(files, file{c[1], binary, 0o755})
	}
	layer, err := b.files("postern", files)
	if err != nil {
		return Image{}, err
	}
	return b.assemble(layout.ImageProduct, "postern", r.config, layer)
}

// All builds every program and every image, the product's first.
func (b Builder) All(ctx context.Context) ([]Image, error) {
	group, both := errgroup.WithContext(ctx)
	// The distribution's files come over the network while the compiler works.
	group.Go(func() error { return b.debian(both) })
	group.Go(func() error { return b.Programs(both) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var images []Image
	for _, build := range []func(context.Context) (Image, error){
		b.Product,
		func(context.Context) (Image, error) {
			return b.single(layout.ImagePause, "pause", file{"/pause", b.Dir.Path("bin", "pause"), 0o755}, nil)
		},
		func(context.Context) (Image, error) {
			return b.single(layout.ImageDNS, "coredns", file{"/coredns", b.Dir.Path("bin", "coredns"), 0o755},
				[]string{"-conf", "/etc/coredns/Corefile"})
		},
		b.workload,
	} {
		image, err := build(ctx)
		if err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	return images, nil
}

// single makes an image of one static program.
func (b Builder) single(ref, base string, program file, args []string) (Image, error) {
	layer, err := b.files(base, []file{program})
	if err != nil {
		return Image{}, err
	}
	return b.assemble(ref, base, v1.Config{Entrypoint: []string{program.path}, Cmd: args}, layer)
}

// A layer is a tar file.
type layer struct {
	file string
	key  string
}

// assemble puts layers and configuration together.
func (b Builder) assemble(ref, base string, config v1.Config, layers ...layer) (Image, error) {
	key := sha256.New()
	if err := json.NewEncoder(key).Encode(config); err != nil {
		return Image{}, err
	}
	for _, l := range layers {
		fmt.Fprintln(key, l.key)
	}
	image := Image{Name: ref, File: b.Dir.Path("images", base+".tar"), Key: hex.EncodeToString(key.Sum(nil))}
	built, err := b.once(image.File, image.Key, func(target string) error { return write(ref, target, config, layers) })
	if err != nil {
		return Image{}, fmt.Errorf("assemble %s: %w", ref, err)
	}
	if built {
		b.Report("image " + ref)
	}
	return image, nil
}

func write(ref, target string, config v1.Config, layers []layer) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	image := v1.Image(empty.Image)
	for _, l := range layers {
		// It is unpacked seconds later on this machine: size matters little.
		tarred, err := tarball.LayerFromFile(l.file, tarball.WithCompressionLevel(gzip.BestSpeed))
		if err != nil {
			return fmt.Errorf("read the layer %s: %w", filepath.Base(l.file), err)
		}
		if image, err = mutate.AppendLayers(image, tarred); err != nil {
			return err
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = "amd64", "linux", config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return err
	}
	return tarball.WriteToFile(target, tag, image)
}
