package controller

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
)

// object is an object as JSON has it.
type object = map[string]any

// api stands for an API server: it keeps objects by their path, with the rules by
// which the controller is kept from overwriting others (a name is given once, an
// update names the version that it saw), and lets nobody watch for long.
type api struct {
	url string

	mu      sync.Mutex
	objects map[string]object
	version int
	changes chan struct{} // closed at the next change
	meeting *meeting
	written []write
}

// write is a status that was written.
type write struct {
	path, by string // who called
	holder   string // of the Lease then
}

const leasePath = "/apis/coordination.k8s.io/v1/namespaces/postern/leases/" + leaseName

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{objects: make(map[string]object), changes: make(chan struct{})}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // watches
	a.url = server.URL
	return a
}

// instance is a controller of this cluster, in a hurry.
func (a *api) instance(t *testing.T, name string) *controller {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	c := &controller{
		o:     Options{Namespace: "postern", Name: name, Log: log},
		lease: lease{6 * time.Second, 5 * time.Second, 100 * time.Millisecond},
	}
	config := &rest.Config{Host: a.url, UserAgent: name, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
	if err := c.connect(config); err != nil {
		t.Fatal(err)
	}
	return c
}

// put makes an object, or replaces it.
func (a *api) put(at string, o object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keep(at, o)
}

func (a *api) keep(at string, o object) {
	a.version++
	metadata, _ := o["metadata"].(object)
	metadata = maps.Clone(metadata)
	if metadata == nil {
		metadata = make(object)
	}
	metadata["resourceVersion"] = fmt.Sprint(a.version)
	o["metadata"] = metadata
	a.objects[at] = o
	close(a.changes)
	a.changes = make(chan struct{})
}

func (a *api) get(at string) object {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.objects[at]
}

// holder is who has the Lease.
func (a *api) holder() string {
	spec, _ := a.get(leasePath)["spec"].(object)
	name, _ := spec["holderIdentity"].(string)
	return name
}

// writes are those of an instance.
func (a *api) writes(by string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.written {
		if w.by == by {
			n++
		}
	}
	return n
}

// meeting makes the first callers of a method and path wait for each other.
type meeting struct {
	call    string
	missing int
	all     chan struct{} // closed when nobody is missing
}

// meet waits, if the caller is one of these.
func (a *api) meet(call string) {
	a.mu.Lock()
	m := a.meeting
	if m == nil || m.call != call || m.missing == 0 {
		a.mu.Unlock()
		return
	}
	if m.missing--; m.missing == 0 {
		close(m.all)
	}
	a.mu.Unlock()
	<-m.all
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.meet(r.Method + " " + r.URL.Path)
	if r.URL.Query().Get("watch") != "" {
		a.watch(w, r)
		return
	}
	var body object
	if r.Body != nil {
		json.NewDecoder(r.Body).Decode(&body)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	have, ok := a.objects[r.URL.Path]
	switch r.Method {
	case http.MethodGet:
		if !ok && strings.HasPrefix(r.URL.Path, "/apis/postern.dev/") {
			have, ok = a.list(r.URL.Path), true
		}
		if !ok {
			answer(w, http.StatusNotFound, status("NotFound", http.StatusNotFound))
			return
		}
		answer(w, http.StatusOK, have)
	case http.MethodPost:
		metadata, _ := body["metadata"].(object)
		at := path.Join(r.URL.Path, fmt.Sprint(metadata["name"]))
		if a.objects[at] != nil {
			answer(w, http.StatusConflict, status("AlreadyExists", http.StatusConflict))
			return
		}
		encodeSecret(body)
		a.keep(at, body)
		answer(w, http.StatusCreated, body)
	case http.MethodPut:
		if version(have) != version(body) {
			answer(w, http.StatusConflict, status("Conflict", http.StatusConflict))
			return
		}
		a.keep(r.URL.Path, body)
		answer(w, http.StatusOK, body)
	case http.MethodPatch:
		at := strings.TrimSuffix(r.URL.Path, "/status")
		spec, _ := a.objects[leasePath]["spec"].(object)
		a.written = append(a.written, write{at, r.UserAgent(), fmt.Sprint(spec["holderIdentity"])})
		next := maps.Clone(a.objects[at])
		next["status"] = body["status"]
		a.keep(at, next)
		answer(w, http.StatusOK, next)
	}
}

func version(o object) any {
	metadata, _ := o["metadata"].(object)
	return metadata["resourceVersion"]
}

// encodeSecret does what the API server does with a Secret's text.
func encodeSecret(o object) {
	texts, ok := o["stringData"].(object)
	if !ok {
		return
	}
	data := make(object)
	for name, text := range texts {
		data[name] = base64.StdEncoding.EncodeToString([]byte(text.(string)))
	}
	o["data"] = data
	delete(o, "stringData")
}

func (a *api) list(at string) object {
	items := []any{}
	for name, o := range a.objects {
		if path.Dir(name) == at {
			items = append(items, o)
		}
	}
	return object{"apiVersion": "postern.dev/v1alpha1", "kind": "List", "metadata": object{"resourceVersion": fmt.Sprint(a.version)}, "items": items}
}

// watch ends at the next change, after which the caller lists again.
func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	changes, now := a.changes, fmt.Sprint(a.version)
	a.mu.Unlock()
	if r.URL.Query().Get("sendInitialEvents") != "" {
		answer(w, http.StatusBadRequest, status("BadRequest", http.StatusBadRequest))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	if r.URL.Query().Get("resourceVersion") == now {
		select {
		case <-changes:
		case <-r.Context().Done():
		}
	}
	json.NewEncoder(w).Encode(object{"type": "ERROR", "object": status("Expired", http.StatusGone)})
}

func status(reason string, code int) object {
	return object{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code}
}

func answer(w http.ResponseWriter, code int, o object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(o)
}
