package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"postern.dev/postern/testenv/cluster/layout"
)

// suite is the Debian that the workload image is made of: PostgreSQL 15, Python
// 3.11.
const suite = "bookworm"

// packages are what the workload image has from Debian: a PostgreSQL server and
// client, Python, and what a curious process in a pod would use.
var packages = []string{
	"postgresql-15", "postgresql-client-15", "python3", "ca-certificates", "openssl", "curl",
	"iproute2", "iputils-ping", "netcat-openbsd", "socat", "tcpdump", "strace", "procps", "busybox-static",
}

// unneeded is deleted from it: compiled queries (jit is off) with their compiler,
// documents, and the cluster that the server's package makes.
var unneeded = []string{
	"usr/lib/x86_64-linux-gnu/libLLVM-14.so.1", "usr/lib/x86_64-linux-gnu/libz3.so.4",
	"usr/lib/postgresql/15/lib/bitcode", "usr/lib/postgresql/15/lib/llvmjit.so",
	"var/lib/postgresql/15", "etc/postgresql/15",
	"usr/share/i18n", "var/cache/apt", "var/lib/apt/lists", "var/log/apt",
}

// pythonDir is on Debian's sys.path, and not where Debian's packages go.
const pythonDir = "usr/local/lib/python3.11/dist-packages"

// workload is the image of database servers and clients; [Builder.debian] has
// made its base.
func (b Builder) workload(context.Context) (Image, error) {
	base, err := b.debianLayer()
	if err != nil {
		return Image{}, err
	}
	scripts := filepath.Join(b.module(), "image", "workload")
	top, err := b.files("workload-top", []file{
		{"/usr/local/bin/kubectl", b.Dir.Path("bin", "kubectl"), 0o755},
		{"/usr/local/bin/serve-postgres", filepath.Join(scripts, "serve-postgres"), 0o755},
		{"/usr/local/bin/idle", filepath.Join(scripts, "idle"), 0o755},
	})
	if err != nil {
		return Image{}, err
	}
	config := v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
		Cmd: []string{"idle"},
	}
	return b.assemble(layout.ImageWorkload, "workload", config, base, top)
}

// debianLayer names the layer that [Builder.debian] makes.
func (b Builder) debianLayer() (layer, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, suite, packages, unneeded, pythonDir)
	err := hashFile(sum, b.requirements())
	return layer{file: b.Dir.Path("images", "debian.layer.tar"), key: hex.EncodeToString(sum.Sum(nil))}, err
}

func (b Builder) requirements() string {
	return filepath.Join(b.module(), "image", "workload", "requirements.txt")
}

// debian makes the layer with what comes from Debian and PyPI: minutes of
// downloads, once.
func (b Builder) debian(ctx context.Context) error {
	l, err := b.debianLayer()
	if err != nil {
		return err
	}
	built, err := b.once(l.file, l.key, func(target string) (err error) {
		root := b.Dir.Path("images", "debian.root")
		if err := os.RemoveAll(root); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
		if err := b.bootstrap(ctx, root); err != nil {
			return err
		}
		if err := b.python(ctx, root); err != nil {
			return err
		}
		return output(exec.CommandContext(ctx, "tar", "--create", "--file="+target, "--directory="+root,
			"--sort=name", "--numeric-owner", "--xattrs", "--exclude=./dev/*", "."))
	})
	if err != nil {
		return fmt.Errorf("make the workload image's Debian: %w", err)
	}
	if built {
		b.Report("Debian with Python and PostgreSQL")
	}
	return nil
}

func (b Builder) bootstrap(ctx context.Context, root string) error {
	args := []string{
		"--quiet", "--mode=root", "--variant=minbase", "--format=directory",
		`--aptopt=Apt::Install-Recommends "false"`,
	}
	for _, path := range []string{"doc", "man", "locale", "info"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+path+"/*")
	}
	args = append(args, "--include="+strings.Join(packages, ","), suite, root)
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, mirrors(ctx)...)...)
	if err := output(cmd); err != nil {
		return err
	}
	for _, path := range unneeded {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	return nil
}

// mirrors are where this machine's apt gets the suite from, as lines of a
// sources.list; Debian's own where it runs another one.
func mirrors(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(CREATED_BY) deb $(REPO_URI) $(CODENAME) $(COMPONENT)").Output()
	var lines []string
	for line := range strings.Lines(string(out)) {
		source, isPackages := strings.CutPrefix(strings.TrimSpace(line), "Packages ")
		fields := strings.Fields(source)
		if isPackages && len(fields) == 4 && strings.HasPrefix(fields[2], suite) && fields[3] == "main" {
			lines = append(lines, source)
		}
	}
	if err != nil || len(lines) == 0 {
		return []string{"deb http://deb.debian.org/debian " + suite + " main"}
	}
	return lines
}

// python installs what PyPI has, for the image's Python whatever the machine's
// is, and compiles it as a package's installation would.
func (b Builder) python(ctx context.Context, root string) error {
	args := []string{
		"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore",
		"--require-hashes", "--no-deps", "--no-compile", "--only-binary=:all:",
		"--implementation=cp", "--python-version=3.11", "--target=" + filepath.Join(root, pythonDir),
	}
	for _, platform := range []string{"manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64"} {
		args = append(args, "--platform="+platform)
	}
	if err := output(exec.CommandContext(ctx, "python3", append(args, "--requirement="+b.requirements())...)); err != nil {
		return err
	}
	return output(exec.CommandContext(ctx, "chroot", root, "python3", "-m", "compileall", "-q", "/"+pythonDir))
}
