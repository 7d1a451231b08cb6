package agent

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// account is the Linux user as whom the command runs.
type account struct {
	name       string
	uid, gid   uint32
	groups     []uint32 // supplementary and own, as the kernel gets them
	groupNames []string
	home       string
}

// findAccount finds the command's user: the one that is named, or numbered,
// else the one who called sudo.
//
// Errors: nobody is named, the user is unknown, or is root: root can undo any guard.
func findAccount(name string) (account, error) {
	var found *user.User
	var err error
	switch id := os.Getenv("SUDO_UID"); {
	case name != "":
		found, err = user.Lookup(name)
		// A name may consist of digits: as with chown, it counts before the number.
		if _, notOne := number(name); err != nil && notOne == nil {
			found, err = user.LookupId(name)
		}
	case id != "":
		found, err = user.LookupId(id)
	default:
		return account{}, errors.New("the command must not run as root: name its user with --user, or call run with sudo from that user's own shell")
	}
	if err != nil {
		return account{}, fmt.Errorf("find the command's user: %w", err)
	}
	a := account{name: found.Username, home: found.HomeDir}
	if a.uid, err = number(found.Uid); err != nil {
		return account{}, err
	}
	if a.gid, err = number(found.Gid); err != nil {
		return account{}, err
	}
	if a.uid == 0 {
		return account{}, errors.New("a command of root cannot be guarded: name another user with --user")
	}
	return a, a.findGroups(found)
}

func (a *account) findGroups(of *user.User) error {
	ids, err := of.GroupIds()
	if err != nil {
		return fmt.Errorf("find groups of %s: %w", a.name, err)
	}
	for _, id := range ids {
		gid, err := number(id)
		if err != nil {
			return err
		}
		a.groups = append(a.groups, gid)
		if group, err := user.LookupGroupId(id); err == nil {
			a.groupNames = append(a.groupNames, group.Name)
		}
	}
	slices.Sort(a.groupNames)
	return nil
}

func number(id string) (uint32, error) {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read user or group number: %w", err)
	}
	return uint32(n), nil
}

// environment is the command's: the caller's, as its user would have it.
func (a account) environment(caller []string) []string {
	own := []string{"HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name}
	return append(slices.DeleteFunc(slices.Clone(caller), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "HOME", "USER", "LOGNAME", "MAIL": // sudo sets these to root's
			return true
		}
		return strings.HasPrefix(name, "SUDO_")
	}), own...)
}
