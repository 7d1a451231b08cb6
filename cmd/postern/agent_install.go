package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Where what arms a node lies on it.
const (
	defaultBinDir  = "/opt/postern"
	defaultUnitDir = "/etc/systemd/system"
	armUnit        = "postern-arm.service"
)

// armOnBoot is what a node needs in order to be armed by systemd when it boots.
type armOnBoot struct {
	root    string   // where the node's root is seen from here; empty on the node
	bin     string   // folder of the program
	units   string   // folder of systemd's units
	before  []string // units that start pods
	require bool     // they do not start where arming fails
	state   string
	cgroups string // empty: found at boot
	pods    string // likewise
}

// installCommand puts on a node what guards it between its boot and the agent's start.
func installCommand() *cobra.Command {
	var o armOnBoot
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put this program on the node, with a systemd unit that arms the node at its next boot",
		Long: `Put this program on the node, with a systemd unit that runs postern agent arm before the kubelet. Run it as root on the
node; the chart does with boot.install. It may be run again, as after an upgrade, and postern agent uninstall takes it back.
Nothing is started: the unit is for the next boot.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return o.install() },
	}
	f := cmd.Flags()
	f.StringVar(&o.root, "host-root", "", "where the node's root is mounted (default: this is the node)")
	f.StringVar(&o.bin, "bin-dir", defaultBinDir, "the node's folder for this program")
	f.StringVar(&o.units, "unit-dir", defaultUnitDir, "the node's folder of systemd units")
	f.StringSliceVar(&o.before, "before", []string{"kubelet.service"}, "systemd units that start pods, and so come after")
	f.BoolVar(&o.require, "require", false, "these do not start when the node could not be armed")
	f.StringVar(&o.state, "state-dir", defaultStateDir, "the node's folder of what the gate wrote down")
	f.StringVar(&o.cgroups, "cgroup-root", "", "where the node has its cgroup v2 hierarchy (default: found at boot)")
	f.StringVar(&o.pods, "pods-cgroup", "", "the pods' cgroup below it (default: the last gate's, else found)")
	return cmd
}

// install writes each file whole or not at all.
//
// Errors: a path or name that systemd would read otherwise; what could not be written.
func (o armOnBoot) install() error {
	for _, path := range []string{o.bin, o.units, o.state, o.cgroups, o.pods} {
		if path != "" && (!filepath.IsAbs(path) && path != o.pods || strings.ContainsAny(path, " \t\n\"'\\%$")) {
			return fmt.Errorf("install the unit: %q is no absolute path without blanks, quotes, %% and $", path)
		}
	}
	if len(o.before) == 0 {
		return errors.New("install the unit: no unit is named that starts pods")
	}
	for _, unit := range o.before {
		if filepath.Base(unit) != unit || !strings.HasSuffix(unit, ".service") || strings.ContainsAny(unit, " \t\n\"'\\%$") {
			return fmt.Errorf("install the unit: %q is no name of a service", unit)
		}
	}
	if err := o.copyProgram(); err != nil {
		return fmt.Errorf("install the program: %w", err)
	}
	units := filepath.Join(o.root, o.units)
	if err := replace(filepath.Join(units, armUnit), 0o644, strings.NewReader(o.unit())); err != nil {
		return fmt.Errorf("install the unit: %w", err)
	}
	if err := unlinkArm(units); err != nil { // what an earlier installation said
		return err
	}
	for _, unit := range o.before {
		// What `systemctl enable` does (systemd.unit(5), "[Install] section options").
		folder := filepath.Join(units, unit+"."+o.dependency())
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("enable the unit: %w", err)
		}
		if err := os.Symlink("../"+armUnit, filepath.Join(folder, armUnit)); err != nil {
			return fmt.Errorf("enable the unit: %w", err)
		}
	}
	return nil
}

func (o armOnBoot) dependency() string { return either(o.require, "requires", "wants") }

// unit is the unit's text.
//
// Source: systemd.unit(5), systemd.service(5): RequiresMountsFor orders after mounts.
func (o armOnBoot) unit() string {
	program := filepath.Join(o.bin, "postern")
	command := program + " agent arm --state-dir=" + o.state
	mounts := o.bin + " " + o.state
	if o.cgroups != "" {
		command += " --cgroup-root=" + o.cgroups
		mounts += " " + o.cgroups
	}
	if o.pods != "" {
		command += " --pods-cgroup=" + o.pods
	}
	return fmt.Sprintf(`# Written by postern agent install; postern agent uninstall takes it away.
[Unit]
Description=Guard this node as it was guarded last, before pods start
Before=%s
RequiresMountsFor=%s

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%s

[Install]
%s=%s
`, strings.Join(o.before, " "), mounts, command, either(o.require, "RequiredBy", "WantedBy"), strings.Join(o.before, " "))
}

func (o armOnBoot) copyProgram() error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	return replace(filepath.Join(o.root, o.bin, "postern"), 0o755, self)
}

// replace puts a file in another's place, which may be running.
func replace(path string, mode fs.FileMode, content io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	draft, err := os.CreateTemp(filepath.Dir(path), ".postern-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(draft.Name()))
		}
	}()
	_, err = io.Copy(draft, content)
	if err = errors.Join(err, draft.Chmod(mode), draft.Sync(), draft.Close()); err != nil {
		return err
	}
	return os.Rename(draft.Name(), path)
}

// removeArm takes from a node what install has put there. What is not there is gone.
func removeArm(bin, units string) error {
	err := unlinkArm(units)
	for _, path := range []string{filepath.Join(units, armUnit), filepath.Join(bin, "postern")} {
		if gone := os.Remove(path); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove what arms the node: %w", gone))
		}
	}
	_ = os.Remove(bin) // unless something else is in it
	return err
}

// unlinkArm disables the unit for whatever it was enabled.
func unlinkArm(units string) error {
	var errs []error
	for _, dependency := range []string{"wants", "requires"} {
		links, err := filepath.Glob(filepath.Join(units, "*."+dependency, armUnit))
		errs = append(errs, err)
		for _, link := range links {
			if err := os.Remove(link); err != nil {
				errs = append(errs, fmt.Errorf("disable the unit: %w", err))
			}
			_ = os.Remove(filepath.Dir(link)) // unless it is another's too
		}
	}
	return errors.Join(errs...)
}
