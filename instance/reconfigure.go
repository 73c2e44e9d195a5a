package instance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

// ReconfigureMessage is the line that a fork's guest gets on its vsock port.
type ReconfigureMessage struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Taps []Tap  `json:"taps"`
}

const defaultReconfigureTime = 10 * time.Second

// maxAnswer bounds what is kept of a command's output and of a guest's answer.
const maxAnswer = 4096

func (c Reconfigure) validate() error {
	if len(c.Command) > 0 && c.VsockPort != 0 {
		return badRequest("use one", "both a command and a vsock port are to reconfigure forks")
	}
	if c.Timeout < 0 {
		return badRequest("use 0 for the default", "a reconfiguration time of %v", c.Timeout)
	}
	return nil
}

func (c Reconfigure) wanted() bool { return len(c.Command) > 0 || c.VsockPort != 0 }

// tell tells the guest of an instance its new address.
func (c Reconfigure) tell(ctx context.Context, dir string, rec record) error {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = defaultReconfigureTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no success within %v", timeout))
	defer cancel()
	if len(c.Command) > 0 {
		return c.command(ctx, dir, rec)
	}
	return c.vsock(ctx, dir, rec)
}

func (c Reconfigure) command(ctx context.Context, dir string, rec record) error {
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.Env = append(os.Environ(), "FAULTLINE_INSTANCE_ID="+rec.ID, "FAULTLINE_INSTANCE_NAME="+rec.Name, "FAULTLINE_INSTANCE_DIR="+dir)
	cmd.Env = append(cmd.Env, tapVariables(rec.Spec)...)
	if rec.Spec.VsockCID != 0 {
		cmd.Env = append(cmd.Env, "FAULTLINE_VSOCK="+filepath.Join(dir, vsockName))
	}
	// A grandchild that keeps the pipe must not keep us.
	cmd.WaitDelay = time.Second
	output, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%s: %w; it said: %s", c.Command[0], err, bytes.TrimSpace(output[:min(len(output), maxAnswer)]))
}

// vsock connects through Firecracker's hybrid socket: "CONNECT port", the answer
// "OK …", then a stream (Firecracker, docs/vsock.md).
func (c Reconfigure) vsock(ctx context.Context, dir string, rec record) error {
	if rec.Spec.VsockCID == 0 {
		return errors.New("the instance has no vsock device: create it with one, or configure a command")
	}
	conn, err := firecracker.DialSocket(ctx, filepath.Join(dir, vsockName))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	message, err := json.Marshal(ReconfigureMessage{ID: rec.ID, Name: rec.Name, Taps: taps(rec.Spec)})
	if err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	exchange := func(line, want string) error {
		if _, err := fmt.Fprintf(conn, "%s\n", line); err != nil {
			return err
		}
		answer, err := in.ReadString('\n')
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		if err != nil {
			return fmt.Errorf("the guest's answer on vsock port %d: %w", c.VsockPort, err)
		}
		if !strings.HasPrefix(answer, want) {
			return fmt.Errorf("the guest answered %.80q on vsock port %d", answer, c.VsockPort)
		}
		return nil
	}
	if err := exchange(fmt.Sprintf("CONNECT %d", c.VsockPort), "OK "); err != nil {
		return err
	}
	return exchange(string(message), "ok\n")
}
