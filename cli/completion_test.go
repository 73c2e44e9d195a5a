package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"de":                          "delete demo",
		"snapshot ":                   "create delete fork inspect ls restore",
		"snapshot in":                 "inspect",
		"restore --backend ":          " auto file uffd",
		"restore web --backend f":     "file",
		"restore --p":                 "--paused",
		"demo --hypervisor fc":        "fcsim",
		"completion ":                 "bash fish zsh",
		"bench --json fau":            "fault",
		"nonsense more ":              strings.Join(strings.Fields(must(t, "complete", "--", "")), " "),
		"create --kernel ":            "",
		"snapshot create --name x --": "--data-dir --help --json --name --socket",
	} {
		words := strings.Split(line, " ")
		got := strings.ReplaceAll(strings.TrimSuffix(must(t, append([]string{"complete", "--"}, words...)...), "\n"), "\n", " ")
		if got != want {
			t.Errorf("%q completes to %q, want %q", line, got, want)
		}
	}
	if all := must(t, "complete"); strings.Contains(all, "complete\n") || !strings.Contains(all, "completion\n") {
		t.Errorf("commands: %q", all)
	}
}

// The script of bash asks for the words up to the cursor and takes the answer.
func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash; install it")
	}
	dir := t.TempDir()
	// In place of the program stands one that says what it was asked.
	fake := "#!/bin/sh\nfor word; do echo \"<$word>\"; done\n"
	if err := os.WriteFile(filepath.Join(dir, "faultline"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	script := must(t, "completion", "bash") + `
COMP_WORDS=(faultline snapshot "a b" lost); COMP_CWORD=2
_faultline
printf '%s,' "${COMPREPLY[@]}"
`
	run := exec.Command(bash, "-c", script)
	run.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := run.CombinedOutput()
	if want := "<complete>,<-->,<snapshot>,<a b>,"; err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := must(t, "completion", shell); !strings.Contains(out, "faultline complete --") {
			t.Errorf("%s: %q", shell, out)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // its text was compared; nobody here can parse it
		}
		check := exec.Command(path, "-n")
		check.Stdin = strings.NewReader(completionScripts[shell])
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not parse its script: %v: %s", shell, err, out)
		}
	}
}
