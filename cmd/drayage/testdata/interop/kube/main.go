// Kube holds files of Kubernetes objects against the API's own types: unknown fields
// and wrong kinds of values are errors. Pods must do without root, the host's network
// and a token for the cluster, and have limits.
//
//	kube FILE.yaml...
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	log.SetFlags(0)
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			log.Fatalf("%s: %v", path, err)
		}
	}
}

func check(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for n := 1; ; n++ {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := one(doc); err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

// one decodes one object into its type, by its kind.
func one(doc []byte) error {
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := strict.Unmarshal(doc, &kind); err != nil {
		return err
	}
	types := map[string]any{
		"v1 Namespace": &corev1.Namespace{}, "v1 ConfigMap": &corev1.ConfigMap{}, "v1 PersistentVolumeClaim": &corev1.PersistentVolumeClaim{},
		"apps/v1 DaemonSet": &appsv1.DaemonSet{}, "batch/v1 CronJob": &batchv1.CronJob{}, "networking.k8s.io/v1 NetworkPolicy": &networkingv1.NetworkPolicy{},
	}
	into, ok := types[kind.APIVersion+" "+kind.Kind]
	if !ok {
		return fmt.Errorf("no %s of %s is known here", kind.Kind, kind.APIVersion)
	}
	if err := strict.UnmarshalStrict(doc, into); err != nil {
		return err
	}
	switch o := into.(type) {
	case *appsv1.DaemonSet:
		for k, v := range o.Spec.Selector.MatchLabels {
			if o.Spec.Template.Labels[k] != v {
				return fmt.Errorf("the selector's %s isn't the template's", k)
			}
		}
		return restricted(o.Spec.Template.Spec)
	case *batchv1.CronJob:
		return restricted(o.Spec.JobTemplate.Spec.Template.Spec)
	}
	return nil
}

// restricted reports what a pod may do beyond the Pod Security Standards' "restricted",
// but for the host's folders and a port of loopback.
func restricted(p corev1.PodSpec) error {
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	s := p.SecurityContext
	switch {
	case p.HostNetwork || p.HostPID || p.HostIPC:
		return errors.New("the pod is in a namespace of the host")
	case !is(p.AutomountServiceAccountToken, false):
		return errors.New("the pod has a token for the cluster")
	case s == nil || !is(s.RunAsNonRoot, true) || s.RunAsUser == nil || *s.RunAsUser == 0:
		return errors.New("the pod may be root")
	case s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
		return errors.New("the pod's system calls aren't filtered")
	}
	for _, c := range append(p.InitContainers, p.Containers...) {
		s := c.SecurityContext
		switch {
		case s == nil || !is(s.AllowPrivilegeEscalation, false) || is(s.Privileged, true) || s.RunAsUser != nil:
			return fmt.Errorf("%s may gain privileges", c.Name)
		case !is(s.ReadOnlyRootFilesystem, true):
			return fmt.Errorf("%s can write to its root", c.Name)
		case s.Capabilities == nil || len(s.Capabilities.Add) > 0 || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL":
			return fmt.Errorf("%s keeps capabilities", c.Name)
		case c.Resources.Limits.Memory().IsZero() || c.Resources.Limits.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero():
			return fmt.Errorf("%s has no requests or limits", c.Name)
		}
		for _, port := range c.Ports {
			if port.HostPort != 0 && port.HostIP != "127.0.0.1" {
				return fmt.Errorf("%s has port %d of every address of its node", c.Name, port.HostPort)
			}
		}
	}
	return nil
}
