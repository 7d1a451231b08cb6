package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
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
