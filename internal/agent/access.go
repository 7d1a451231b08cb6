package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is where the kernel gives up on symbolic links too.
//
// Source: path_resolution(7).
const maxLinks = 40

// The bits of a file's mode, as those of others.
const (
	mayRead   = 4
	mayWrite  = 2
	maySearch = 1
)

// place is a directory on the way to a file, and what in it comes next.
type place struct {
	dir, entry string
	dirStat    unix.Stat_t
	entryStat  unix.Stat_t
}

// way lists the directories on the way to path, those of symbolic links
// too, from the root on. It ends before the first entry that does not exist.
//
// Shape: missing tells that path does not exist; final is where links lead.
func way(path string) (places []place, final string, missing bool, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, "", false, err
	}
	current, rest, links := "/", strings.Split(path[1:], "/"), 0
	for len(rest) > 0 {
		next := rest[0]
		rest = rest[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			current = filepath.Dir(current)
			continue
		}
		p := place{dir: current, entry: filepath.Join(current, next)}
		if err := unix.Stat(p.dir, &p.dirStat); err != nil {
			return nil, "", false, fmt.Errorf("inspect %s: %w", p.dir, err)
		}
		err := unix.Lstat(p.entry, &p.entryStat)
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return nil, "", false, fmt.Errorf("inspect %s: %w", p.entry, err)
		}
		places = append(places, p)
		switch {
		case missing:
			return places, p.entry, true, nil
		case p.entryStat.Mode&unix.S_IFMT != unix.S_IFLNK:
			current = p.entry
			continue
		}
		if links++; links > maxLinks {
			return nil, "", false, fmt.Errorf("inspect %s: too many symbolic links", path)
		}
		target, err := os.Readlink(p.entry)
		if err != nil {
			return nil, "", false, fmt.Errorf("inspect %s: %w", p.entry, err)
		}
		if filepath.IsAbs(target) {
			current = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return places, current, false, nil
}

// mustNotReach refuses a file to which the user has any access, or whose
// content he can replace.
func (a account) mustNotReach(path string) error {
	places, final, missing, err := way(path)
	if err != nil || missing {
		return errors.Join(err, a.mustNotReplace(path, places))
	}
	for _, p := range places {
		if !a.has(p.dirStat, maySearch, hasACL(p.dir)) {
			return a.mustNotReplace(path, places)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(final, &st); err != nil {
		return fmt.Errorf("inspect %s: %w", final, err)
	}
	private := "600"
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		private = "700"
	}
	if a.has(st, mayRead|mayWrite|maySearch, hasACL(final)) {
		return fmt.Errorf("%s has access to %s; type: chown root:root %[2]s && chmod %[3]s %[2]s", a.name, final, private)
	}
	return a.mustNotReplace(path, places)
}

// mustNotWrite refuses a file whose content the user can change or replace.
func (a account) mustNotWrite(path string) error {
	places, final, missing, err := way(path)
	if err != nil {
		return err
	}
	if !missing {
		var st unix.Stat_t
		if err := unix.Stat(final, &st); err != nil {
			return fmt.Errorf("inspect %s: %w", final, err)
		}
		if a.has(st, mayWrite, hasACL(final)) {
			return fmt.Errorf("%s can write %s; type: chown root:root %[2]s && chmod go-w %[2]s", a.name, final)
		}
	}
	return a.mustNotReplace(path, places)
}

// mustNotReplace refuses a path one of whose directories the user can change.
func (a account) mustNotReplace(path string, places []place) error {
	for _, p := range places {
		// In a sticky directory, such as /tmp, one can make entries and remove one's own.
		there := p.entryStat.Nlink > 0
		sticky := p.dirStat.Mode&unix.S_ISVTX != 0 && p.dirStat.Uid != a.uid && p.entryStat.Uid != a.uid
		if !(sticky && there) && a.has(p.dirStat, mayWrite, hasACL(p.dir)) {
			return fmt.Errorf("%s can replace %s, as %s is not root's alone; type: chown root:root %[3]s && chmod go-w %[3]s, or keep the file elsewhere",
				a.name, path, p.dir)
		}
	}
	return nil
}

// has tells whether the user has one of some rights, or can give it to himself. With an
// access control list, the group bits are the most that any entry gives: they
// count for him then, whoever the entries name.
//
// Source: acl(5), correspondence between ACL entries and file permission bits.
func (a account) has(st unix.Stat_t, rights uint32, acl bool) bool {
	if st.Uid == a.uid {
		return true
	}
	group := acl || st.Gid == a.gid || slices.Contains(a.groups, st.Gid)
	return st.Mode&rights != 0 || group && st.Mode>>3&rights != 0
}

func hasACL(path string) bool {
	n, err := unix.Getxattr(path, "system.posix_acl_access", nil)
	return err == nil && n > 0
}
