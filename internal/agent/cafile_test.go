package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern.dev/postern/testenv"
)

func TestCertificateReplacesALinkAndFollowsNone(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(victim, []byte("kept"), 0o600), os.Symlink(victim, path)); err != nil {
		t.Fatal(err)
	}
	file, err := writeCA(path, []byte("certificate"))
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "certificate" {
		t.Errorf("got %q, want the certificate", text)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.FileMode(0o644); got != want {
		t.Errorf("got mode %v, want %v", got, want)
	}
	file.remove()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("got %v, want the victim alone", entries)
	}
	if text, _ := os.ReadFile(victim); string(text) != "kept" {
		t.Errorf("got %q behind the link, want it kept", text)
	}
}

func TestFolderThatIsExchangedKeepsItsFiles(t *testing.T) {
	dir := t.TempDir()
	folder, other := filepath.Join(dir, "folder"), filepath.Join(dir, "other")
	if err := errors.Join(os.Mkdir(folder, 0o755), os.Mkdir(other, 0o755), os.WriteFile(filepath.Join(other, "ca.pem"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	file, err := writeCA(filepath.Join(folder, "ca.pem"), []byte("certificate"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(folder, folder+".old"), os.Symlink(other, folder)); err != nil {
		t.Fatal(err)
	}
	file.remove()
	if _, err := os.Stat(filepath.Join(other, "ca.pem")); err != nil {
		t.Errorf("got %v, want the other folder's file kept", err)
	}
	if _, err := os.Stat(filepath.Join(folder+".old", "ca.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the certificate removed from its folder", err)
	}
}

func TestLinkThatIsNotRootsLeadsTheCertificateNowhere(t *testing.T) {
	testenv.Need(t, os.Geteuid() == 0, "root, to give files away")
	for name, row := range map[string]struct {
		folderUID, linkUID int
		mode               os.FileMode // of the link's folder
		target             string      // relative to the test's folder; "": the folder secret, from the root on
		refused            bool
	}{
		"his link in his folder":           {4001, 4001, 0o755, "", true},
		"his relative link":                {4001, 4001, 0o755, "../secret", true},
		"his link in root's sticky folder": {0, 4001, 0o777 | os.ModeSticky, "", true},
		"root's link in his folder":        {4001, 0, 0o755, "", true},
		"root's link where all can write":  {0, 0, 0o777, "", true},
		"root's link in a sticky folder":   {0, 0, 0o777 | os.ModeSticky, "", false},
		"root's link in root's folder":     {0, 0, 0o755, "../secret", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := visible(t)
			his, secret, link := filepath.Join(dir, "his"), filepath.Join(dir, "secret"), filepath.Join(dir, "his", "certs")
			victim := filepath.Join(secret, "inner", "root.crt")
			target := row.target
			if target == "" {
				target = secret
			}
			if err := errors.Join(os.Mkdir(his, 0o755), os.MkdirAll(filepath.Dir(victim), 0o700), os.WriteFile(victim, []byte("kept"), 0o600),
				os.Symlink(target, link), os.Lchown(link, row.linkUID, 0), os.Chown(his, row.folderUID, 0), os.Chmod(his, row.mode)); err != nil {
				t.Fatal(err)
			}
			file, err := writeCA(filepath.Join(link, "inner", "root.crt"), []byte("certificate"))
			if err == nil {
				file.remove()
			}
			if row.refused {
				if err == nil || !strings.Contains(err.Error(), link+" is a symbolic link that others than root can change: give a path without it") {
					t.Errorf("got %v, want a word about the link", err)
				}
				if text, _ := os.ReadFile(victim); string(text) != "kept" {
					t.Errorf("got %q behind the link, want it kept", text)
				}
				return
			}
			if err != nil {
				t.Errorf("got %v, want root's link followed", err)
			}
			if _, err := os.Stat(victim); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("got %v, want the certificate written there and removed", err)
			}
		})
	}
}

func TestFolderOfTheCertificateHasToBeOne(t *testing.T) {
	dir := t.TempDir()
	loop, plain := filepath.Join(dir, "loop"), filepath.Join(dir, "plain")
	if err := errors.Join(os.Symlink("loop", loop), os.WriteFile(plain, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for folder, want := range map[string]string{
		loop: "too many symbolic links", plain: "not a directory", filepath.Join(dir, "missing"): "no such file or directory",
	} {
		if _, err := writeCA(filepath.Join(folder, "ca.pem"), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v for %s, want %q", err, folder, want)
		}
	}
}
