package fcsim

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// maxPayload is Firecracker's default limit of a request's body in bytes.
const maxPayload = 51200

// reply is the answer to a request that succeeded: 204 without a body, else 200.
type reply struct {
	body       any
	deprecated bool
}

// api turns HTTP requests into calls of the machine, in the way of Firecracker's
// API: 400 with a fault_message for whatever is wrong with a request.
type api struct {
	machine    *machine
	maxPayload int64
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer a.machine.tidy()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.maxPayload))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			err = faultf("The request body is larger than the limit of %d bytes.", tooLarge.Limit)
		}
		a.refuse(w, err)
		return
	}
	a.machine.log.Info("The API server received a request.", "method", r.Method, "path", r.URL.Path, "body", string(body))
	answer, err := a.route(r.Method, strings.TrimPrefix(r.URL.Path, "/"), body)
	if err != nil {
		a.refuse(w, err)
		return
	}
	w.Header().Set("Server", AppName+" API")
	if answer.deprecated {
		w.Header().Set("Deprecation", "true")
	}
	if answer.body == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	a.send(w, http.StatusOK, answer.body)
}

func (a *api) refuse(w http.ResponseWriter, err error) {
	a.machine.log.Error("Received Error. Status code: 400 Bad Request. Message: " + err.Error())
	a.send(w, http.StatusBadRequest, map[string]string{"fault_message": err.Error()})
}

func (a *api) send(w http.ResponseWriter, status int, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		status, encoded = http.StatusInternalServerError, []byte(`{"fault_message":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encoded) // a client that has gone away needs no answer
}

// route finds the handler of a request. What is not simulated looks like a path
// that does not exist.
func (a *api) route(method, path string, body []byte) (reply, error) {
	head, rest, _ := strings.Cut(strings.TrimSuffix(path, "/"), "/")
	switch method {
	case http.MethodGet:
		if len(body) > 0 {
			return reply{}, faultf("GET request cannot have a body.")
		}
		return a.get(head, rest)
	case http.MethodPut:
		if len(body) == 0 {
			return reply{}, faultf("Empty PUT request.")
		}
		return a.put(head, rest, body)
	case http.MethodPatch:
		if len(body) == 0 {
			return reply{}, faultf("Empty PATCH request.")
		}
		return a.patch(head, rest, body)
	}
	return reply{}, noRoute(method, head)
}

func noRoute(method, path string) error {
	return faultf("Invalid request method and/or path: %s %s.", method, path)
}

func (a *api) get(head, rest string) (reply, error) {
	m := a.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case head == "":
		return reply{body: instanceInfo{m.id, m.phase, Version, AppName}}, nil
	case head == "version":
		return reply{body: map[string]string{"firecracker_version": Version}}, nil
	case head == "machine-config":
		return reply{body: m.config}, nil
	case head == "vm" && rest == "config":
		return reply{body: m.fullConfig()}, nil
	case head == "balloon":
		return m.getBalloon(rest)
	}
	return reply{}, noRoute(http.MethodGet, head)
}

// instanceInfo is the answer of GET /.
type instanceInfo struct {
	ID      string  `json:"id"`
	State   vmPhase `json:"state"`
	Version string  `json:"vmm_version"`
	AppName string  `json:"app_name"`
}

func (a *api) put(head, rest string, body []byte) (reply, error) {
	m := a.machine
	switch head {
	case "actions":
		return reply{}, m.putAction(body)
	case "balloon":
		return reply{}, m.putBalloon(body)
	case "boot-source":
		return reply{}, m.putBootSource(body)
	case "drives":
		return reply{}, m.putDrive(rest, body)
	case "logger":
		return reply{}, m.putLogger(body)
	case "machine-config":
		return m.putMachine(body)
	case "metrics":
		return reply{}, m.putMetrics(body)
	case "network-interfaces":
		return reply{}, m.putNetwork(rest, body)
	case "snapshot":
		return m.putSnapshot(rest, body)
	case "vsock":
		return m.putVsock(body)
	}
	return reply{}, noRoute(http.MethodPut, head)
}

func (a *api) patch(head, rest string, body []byte) (reply, error) {
	m := a.machine
	switch head {
	case "balloon":
		return reply{}, m.patchBalloon(rest, body)
	case "drives":
		return reply{}, m.patchDrive(rest, body)
	case "machine-config":
		return m.patchMachine(body)
	case "network-interfaces":
		return reply{}, m.patchNetwork(rest, body)
	case "vm":
		return reply{}, m.patchVM(body)
	}
	return reply{}, noRoute(http.MethodPatch, head)
}

// checkedID is the id in a path.
func checkedID(path string) (string, error) {
	id, _, _ := strings.Cut(path, "/")
	if id == "" {
		return "", faultf("The ID cannot be empty.")
	}
	for _, c := range id {
		if c != '_' && !alphanumeric(c) {
			return "", faultf("API Resource IDs can only contain alphanumeric characters and underscores.")
		}
	}
	return id, nil
}
