package main

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/testenv"
)

// healthy are the facts of a node that lacks nothing.
func healthy() facts {
	f := facts{
		kernel: redirect.Inspection{
			Root: "/sys/fs/cgroup", Pods: "/sys/fs/cgroup/kubepods", First: true,
			SetRetval: true, UnixConnect: true, SockDestroy: true, PacketNetns: true, TCX: true,
		},
		release: "6.18.0", version: [2]int{6, 18}, units: defaultUnitDir, arms: true, nri: "/run/nri/nri.sock", kubelet: "/var/lib/kubelet",
		lockdown: "none", unprivBPF: "2", synced: true, logDir: "/var/log", freeBytes: 64 << 30,
	}
	for _, c := range needed {
		f.capabilities |= 1 << c.bit
	}
	return f
}

func TestDoctorFindsNothingMissingOnAHealthyNode(t *testing.T) {
	for _, f := range examine(healthy()) {
		if f.is != fine || strings.Contains(f.String(), "  .") || f.found == "" {
			t.Errorf("got %q, want it ok", f)
		}
	}
}

func TestDoctorSaysWhatIsMissing(t *testing.T) {
	refused := errors.Join(errors.New("try"), unix.EPERM)
	for name, row := range map[string]struct {
		change func(*facts)
		check  string
		is     diagnosis
		unfit  bool
		says   string
	}{
		"an old kernel":     {func(f *facts) { f.version = [2]int{5, 15} }, "kernel", missing, false, "older than 6.1"},
		"no types":          {func(f *facts) { f.kernel.FeaturesErr = fs.ErrNotExist }, "types", missing, true, "CONFIG_DEBUG_INFO_BTF"},
		"no privilege":      {func(f *facts) { f.kernel.FeaturesErr = refused }, "types", cannotTell, true, "root"},
		"a capability less": {func(f *facts) { f.capabilities &^= 1 << unix.CAP_BPF }, "capabilities", missing, true, "lacks BPF."},
		"no version 2":      {func(f *facts) { f.kernel.RootErr = errors.New("no cgroup v2 hierarchy is mounted") }, "cgroups", missing, true, "--cgroup-root"},
		"verifier says no":  {func(f *facts) { f.kernel.LoadErr = errors.New("load programs: invalid argument\nlog") }, "programs", missing, true, "invalid argument. Nothing"},
		"loading forbidden": {func(f *facts) { f.kernel.LoadErr = refused }, "programs", cannotTell, true, "root"},
		"no pods' cgroup":   {func(f *facts) { f.kernel.Pods = "" }, "pods", missing, false, "--pods-cgroup"},
		"named, not there":  {func(f *facts) { f.kernel.PodsErr = fs.ErrNotExist }, "pods", missing, false, "--pods-cgroup"},
		"no order, alone":   {func(f *facts) { f.kernel.First = false }, "order", missing, false, "nobody else is there"},
		"no order, others": {func(f *facts) { f.kernel.First, f.kernel.Others = false, []string{"cil_sock4 at connect4"} },
			"order", missing, false, "cil_sock4 at connect4"},
		"first before others": {func(f *facts) { f.kernel.Others = []string{"cil_sock4 at connect4"} }, "order", fine, false, "before cil_sock4"},
		"no set_retval":       {func(f *facts) { f.kernel.SetRetval = false }, "refusals", missing, false, "EPERM"},
		"no connect_unix":     {func(f *facts) { f.kernel.UnixConnect = false }, "unix sockets", missing, false, "unix sockets are not refused"},
		"no cookies":          {func(f *facts) { f.kernel.PacketNetns = false }, "packets", missing, false, "made their socket"},
		"no tcx":              {func(f *facts) { f.kernel.TCX = false }, "links", missing, false, "clsact"},
		"no sock_destroy":     {func(f *facts) { f.kernel.SockDestroy = false }, "earlier", missing, false, "netlink"},
		"no NRI":              {func(f *facts) { f.nriErr = fs.ErrNotExist }, "NRI", missing, false, "until it has been seen"},
		"NRI out of sight":    {func(f *facts) { f.nriErr = fs.ErrPermission }, "NRI", cannotTell, false, "NRI"},
		"no unit":             {func(f *facts) { f.arms = false }, "boot", missing, false, "boot.install"},
		"no systemd":          {func(f *facts) { f.arms, f.armsErr = false, fs.ErrNotExist }, "boot", cannotTell, false, "--unit-dir"},
		"SELinux":             {func(f *facts) { f.selinux = "container_t" }, "SELinux", missing, false, "container_t"},
		"SELinux, privileged": {func(f *facts) { f.selinux = "spc_t" }, "SELinux", fine, false, "spc_t"},
		"no kubelet":          {func(f *facts) { f.podsErr = fs.ErrNotExist }, "tokens", missing, false, "--kubelet-root"},
		"nested node":         {func(f *facts) { f.ownPIDs = true }, "processes", missing, false, "kind"},
		"AppArmor":            {func(f *facts) { f.apparmor = "cri-containerd.apparmor.d" }, "AppArmor", missing, false, "cri-containerd"},
		"no Landlock":         {func(f *facts) { f.noLandlock = "the kernel has no Landlock" }, "Landlock", missing, false, "lsm="},
		"confidential":        {func(f *facts) { f.lockdown = "confidentiality" }, "lockdown", missing, false, "refuses programs"},
		"lockdown unseen":     {func(f *facts) { f.lockdownErr = fs.ErrNotExist }, "lockdown", cannotTell, false, "the check programs"},
		"anybody's BPF":       {func(f *facts) { f.unprivBPF = "0" }, "others' BPF", missing, false, "sysctl"},
		"a free clock":        {func(f *facts) { f.synced = false }, "clock", missing, false, "chrony"},
		"a full disk":         {func(f *facts) { f.freeBytes = 1 << 30 }, "log's disk", missing, false, "1.0 GiB free at /var/log"},
	} {
		f := healthy()
		row.change(&f)
		findings := examine(f)
		i := slices.IndexFunc(findings, func(f finding) bool { return f.check == row.check })
		if i < 0 {
			t.Fatalf("got no check %q for %s, want one", row.check, name)
		}
		line := findings[i].String()
		if got := findings[i].is; got != row.is || !strings.Contains(line, row.says) || strings.Contains(line, "\n") {
			t.Errorf("got %q for %s, want %s in one line that says %q", line, name, row.is, row.says)
		}
		if got := len(notFit(findings)) > 0; got != row.unfit {
			t.Errorf("got unfit %v for %s, want %v", got, name, row.unfit)
		}
	}
}

// TestDoctorLooksAtThisMachine: it runs here, where all tests run, and tells by its
// exit code.
func TestDoctorLooksAtThisMachine(t *testing.T) {
	testenv.Need(t, os.Geteuid() == 0, "root")
	var out strings.Builder
	c := doctorCommand()
	c.SetArgs([]string{"--nri-socket", "/nowhere/nri.sock", "--kubelet-root", "/nowhere", "--log-dir", t.TempDir()})
	c.SetOut(&out)
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Errorf("got %v and\n%s\nwant a machine on which the kernel's tests run to be fit", err, &out)
	}
	for _, want := range []string{`(?m)^ok +kernel +Linux \d`, `(?m)^ok +programs `, `(?m)^missing +NRI .*/nowhere/nri.sock`, `(?m)^missing +tokens .*/nowhere`, `(?m)^(ok|missing) +log's disk .*GiB`} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("got\n%s\nwant a line like %s", &out, want)
		}
	}

	c = doctorCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs([]string{"--cgroup-root", t.TempDir()})
	c.SetOut(&out)
	var coded interface{ ExitCode() int }
	if err := c.ExecuteContext(t.Context()); !errors.As(err, &coded) || coded.ExitCode() != 1 {
		t.Errorf("got %v without cgroups, want an error with exit code 1", err)
	}
}

// TestDoctorAsksForWhatTheChartGives: no capability more, none less.
func TestDoctorAsksForWhatTheChartGives(t *testing.T) {
	chart, err := os.ReadFile("../../deploy/chart/templates/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var given, asked []string
	for _, line := range regexp.MustCompile(`(?m)^ {16}- ([A-Z_]+) +#`).FindAllStringSubmatch(string(chart), -1) {
		given = append(given, line[1])
	}
	for _, c := range needed {
		asked = append(asked, c.name)
	}
	if !slices.Equal(asked, given) {
		t.Errorf("got %v asked for, want %v as the chart has it", asked, given)
	}
}

func TestSELinuxTypeIsTheThirdPartOfTheLabel(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct{ enforce, label, want string }{
		{"1", "system_u:system_r:container_t:s0:c1,c2\x00", "container_t"},
		{"1\n", "broken", "an unknown type"},
		{"0", "system_u:system_r:container_t:s0", ""},
	} {
		for name, text := range map[string]string{"enforce": row.enforce, "current": row.label} {
			if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := selinuxType(dir+"/enforce", dir+"/current"); got != row.want {
			t.Errorf("got %q of %q, want %q", got, row.label, row.want)
		}
	}
	if got := selinuxType(dir+"/nowhere", dir+"/current"); got != "" {
		t.Errorf("got %q on a kernel without SELinux, want nothing", got)
	}
}

func TestDoctorSeesWhatInstallHasDone(t *testing.T) {
	root := t.TempDir()
	units := root + defaultUnitDir
	if err := os.MkdirAll(units, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := armsOnBoot(units); got || err != nil {
		t.Errorf("got %v, %v before, want no unit", got, err)
	}
	if err := install(t, "--host-root", root, "--require"); err != nil {
		t.Fatal(err)
	}
	if got, err := armsOnBoot(units); !got || err != nil {
		t.Errorf("got %v, %v after, want the unit", got, err)
	}
}

func TestLockdownIsReadFromItsBrackets(t *testing.T) {
	path := t.TempDir() + "/lockdown"
	for text, want := range map[string]string{
		"[none] integrity confidentiality\n": "none", "none [integrity] confidentiality\n": "integrity", "none integrity\n": "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := lockdown(path)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("got %q, %v of %q, want %q", got, err, text, want)
		}
	}
}
