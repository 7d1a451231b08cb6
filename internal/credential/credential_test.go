package credential

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"postern.dev/postern/testenv"
)

const secret = "hunter2-never-shown"

func TestLoginIsReadFromYAMLAndJSON(t *testing.T) {
	for name, text := range map[string]string{
		"yaml": "username: app_ro\npassword: " + secret + "\n",
		"json": `{"username":"app_ro","password":"` + secret + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NewFiles(65534).Login(t.Context(), Reference{File: write(t, text)})
			if err != nil {
				t.Fatal(err)
			}
			if got.User != "app_ro" || got.Password != secret || got.Version == "" {
				t.Errorf("got user %q, version %q and password right=%v; want app_ro, some version, true", got.User, got.Version, got.Password == secret)
			}
		})
	}
}

func TestLoginIsReadAgainWhenItsFileChanges(t *testing.T) {
	file := write(t, "{username: a, password: one}")
	files := NewFiles(65534)
	first, err := files.Login(t.Context(), Reference{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := files.Login(t.Context(), Reference{File: file}); err != nil || again != first {
		t.Errorf("got %v and error %v for an unchanged file, want the same login", again, err)
	}
	replace := file + ".new"
	if err := os.WriteFile(replace, []byte("{username: a, password: two}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(replace, time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(replace, file); err != nil {
		t.Fatal(err)
	}
	second, err := files.Login(t.Context(), Reference{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if second.Password != "two" {
		t.Error("got the old password after the file was replaced, want the new one")
	}
	if second.Version == first.Version {
		t.Errorf("got version %q twice, want another one", second.Version)
	}
}

func TestFaultyLoginFilesAreRefusedWithoutTheirContent(t *testing.T) {
	for name, row := range map[string]struct {
		make func(t *testing.T) string
		want string
	}{
		"missing":       {func(t *testing.T) string { return filepath.Join(t.TempDir(), "login") }, "no such file"},
		"a folder":      {func(t *testing.T) string { return t.TempDir() }, "not a regular file"},
		"a pipe":        {pipe, "not a regular file"},
		"world":         {mode(0o604), "chmod 600"},
		"group":         {mode(0o640), "chmod 600"},
		"group writes":  {mode(0o620), "chmod 600"},
		"guarded user":  {owned(65534), "chown root:root"},
		"too large":     {text(strings.Repeat("#", maxFile) + "\npassword: " + secret), "larger than 65536 bytes"},
		"empty":         {text(""), "missing"},
		"no password":   {text("username: " + secret), "missing"},
		"unknown key":   {text("{username: a, password: b, token: " + secret + "}"), "alone"},
		"not a mapping": {text(secret), "alone"},
		"broken":        {text("username: [" + secret), "alone"},
		"twice":         {text("username: a\nusername: " + secret + "\npassword: b\n"), "alone"},
	} {
		t.Run(name, func(t *testing.T) {
			file := row.make(t)
			got, err := NewFiles(65534).Login(t.Context(), Reference{File: file})
			if err == nil {
				t.Fatalf("got %v, want an error", got)
			}
			if !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %q, want the path and %q", err, row.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("got %q, want nothing of the file's content", err)
			}
		})
	}
}

func TestPrintedLoginShowsNoPassword(t *testing.T) {
	login := Login{User: "app_ro", Password: secret}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, login); strings.Contains(got, secret) {
			t.Errorf("got %q by %s, want no password", got, verb)
		}
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "login.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func text(content string) func(*testing.T) string {
	return func(t *testing.T) string { return write(t, content) }
}

func mode(bits os.FileMode) func(*testing.T) string {
	return func(t *testing.T) string {
		file := write(t, "{username: a, password: "+secret+"}")
		if err := os.Chmod(file, bits); err != nil {
			t.Fatal(err)
		}
		return file
	}
}

func owned(uid int) func(*testing.T) string {
	return func(t *testing.T) string {
		file := write(t, "{username: a, password: "+secret+"}")
		testenv.Need(t, os.Geteuid() == 0, "root, to give a file away")
		if err := os.Chown(file, uid, -1); err != nil {
			t.Fatal(err)
		}
		return file
	}
}

func pipe(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "login")
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
