package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// ada is an account that the machine need not have.
func ada() account {
	return account{name: "ada", uid: 4001, gid: 4001, groups: []uint32{4001, 4002}, home: "/home/ada"}
}

func TestWhoCanReachAndReplaceAFile(t *testing.T) {
	testenv.Need(t, os.Geteuid() == 0, "root, to give files away")
	for name, row := range map[string]struct {
		mode            os.FileMode
		uid, gid        int
		folder          os.FileMode
		folderUID       int
		reachable, safe bool // safe: cannot be written or replaced
	}{
		"root's alone":              {0o600, 0, 0, 0o755, 0, false, true},
		"for all to read":           {0o644, 0, 0, 0o755, 0, true, true},
		"for all to write":          {0o602, 0, 0, 0o755, 0, false, false},
		"his own, without a right":  {0o000, 4001, 0, 0o755, 0, true, false},
		"his group's to read":       {0o640, 0, 4002, 0o755, 0, true, true},
		"his group's to write":      {0o620, 0, 4002, 0o755, 0, false, false},
		"another group's to read":   {0o640, 0, 4003, 0o755, 0, false, true},
		"behind a closed folder":    {0o644, 0, 0, 0o700, 0, false, true},
		"in a folder all can write": {0o600, 0, 0, 0o777, 0, false, false},
		"in a sticky folder":        {0o600, 0, 0, 0o777 | os.ModeSticky, 0, false, true},
		"his own in a sticky one":   {0o600, 4001, 0, 0o777 | os.ModeSticky, 0, true, false},
		"in his own folder":         {0o600, 0, 0, 0o700, 4001, false, false},
		"in his own sticky folder":  {0o600, 0, 0, 0o700 | os.ModeSticky, 4001, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(visible(t), "folder")
			path := filepath.Join(folder, "file")
			if err := errors.Join(
				os.Mkdir(folder, 0o700), os.WriteFile(path, nil, 0o600), os.Chmod(path, row.mode), os.Chown(path, row.uid, row.gid),
				os.Chown(folder, row.folderUID, 0), os.Chmod(folder, row.folder),
			); err != nil {
				t.Fatal(err)
			}
			if err := ada().mustNotReach(path); (err == nil) != (!row.reachable && row.safe) {
				t.Errorf("got %v for a secret, want refused=%v", err, row.reachable || !row.safe)
			}
			if err := ada().mustNotWrite(path); (err == nil) != row.safe {
				t.Errorf("got %v for a decisive file, want refused=%v", err, !row.safe)
			}
		})
	}
}

func TestAccessControlListCountsForTheUser(t *testing.T) {
	testenv.Need(t, os.Geteuid() == 0, "root, to write an access control list")
	path := filepath.Join(visible(t), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Version 2; user::rw-, user:4001:r--, group::---, mask::r--, other::---.
	// Source: include/uapi/linux/posix_acl_xattr.h.
	list := "\x02\x00\x00\x00" +
		"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xa1\x0f\x00\x00" + "\x04\x00\x00\x00\xff\xff\xff\xff" +
		"\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	err := unix.Setxattr(path, "system.posix_acl_access", []byte(list), 0)
	testenv.Need(t, !errors.Is(err, unix.ENOTSUP), "access control lists in the folder of temporary files")
	if err != nil {
		t.Fatal(err)
	}
	if err := ada().mustNotReach(path); err == nil {
		t.Error("got no error for a file that a list lets the user read, want one")
	}
}

func TestEveryFolderOfEveryLinkCounts(t *testing.T) {
	testenv.Need(t, os.Geteuid() == 0, "root, to give files away")
	dir := visible(t)
	his, file := filepath.Join(dir, "his"), filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(his, 0o755), os.Chown(his, 4001, 0),
		os.Symlink(file, filepath.Join(his, "link")), os.Symlink("his/link", filepath.Join(dir, "first"))); err != nil {
		t.Fatal(err)
	}
	err := ada().mustNotWrite(filepath.Join(dir, "first"))
	if err == nil || !strings.Contains(err.Error(), "chown root:root "+his+" && chmod go-w "+his) {
		t.Errorf("got %v, want the folder of the second link and what to type", err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	if err := ada().mustNotWrite(filepath.Join(dir, "loop")); err == nil || !strings.Contains(err.Error(), "too many symbolic links") {
		t.Errorf("got %v for a loop of links, want an error", err)
	}
}

func TestFileThatIsNotThereIsSafeWhereTheUserCannotMakeIt(t *testing.T) {
	dir := visible(t)
	if err := ada().mustNotReach(filepath.Join(dir, "a", "b")); err != nil {
		t.Errorf("got %v, want none", err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := ada().mustNotReach(filepath.Join(dir, "a", "b")); err == nil {
		t.Error("got no error where the user can make the file first, want one")
	}
}

func TestEnvironmentIsTheUsers(t *testing.T) {
	got := ada().environment([]string{"HOME=/root", "USER=root", "LOGNAME=root", "MAIL=/var/mail/root", "SUDO_COMMAND=x", "SUDO_UID=1", "PATH=/bin", "PGHOST=db"})
	want := "PATH=/bin PGHOST=db HOME=/home/ada USER=ada LOGNAME=ada"
	if strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// visible is a folder that everybody can look into, and nobody but root change.
func visible(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
