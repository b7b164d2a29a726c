// controller-runtime answers the same admission reviews as the injector, the way most Go teams write a webhook that
// injects a sidecar: the webhook server of controller-runtime, a typed pod, and a patch that is computed from the pod
// before and after. It makes what the injector makes of an ordinary Geth pod, without looking for what could be
// unusual about it. Only `make bench-injector` uses it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	name       = "geth-peering"
	ipcVolume  = "geth-peering-ipc"
	ipcDir     = "/run/geth-peering"
	ipcPath    = ipcDir + "/geth.ipc"
	tokenName  = "geth-peering-token"
	tokenDir   = "/var/run/secrets/kubernetes.io/serviceaccount"
	annotation = "geth-peering/injected"
	version    = "0.1.0"
)

func main() {
	port := flag.Int("port", 9443, "port of the webhook")
	certDir := flag.String("cert-dir", "", "folder of tls.crt and tls.key")
	image := flag.String("image", "geth-peering/sidecar:0.1.0", "image of the sidecar")
	flag.Parse()
	ctrl.SetLogger(zap.New())

	server := webhook.NewServer(webhook.Options{Port: *port, CertDir: *certDir})
	injector := &injector{decoder: admission.NewDecoder(clientgoscheme.Scheme), image: *image}
	server.Register("/mutate/pods", &webhook.Admission{Handler: injector})
	if err := server.Start(ctrl.SetupSignalHandler()); err != nil {
		ctrl.Log.Error(err, "cannot serve")
		os.Exit(1)
	}
}

type injector struct {
	decoder admission.Decoder
	image   string
}

// Handle answers one review.
func (i *injector) Handle(ctx context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := i.decoder.Decode(request, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	logger := log.FromContext(ctx)
	if pod.Labels[name] != "enabled" {
		logger.Info("decided", "decision", "disabled")
		return admission.Allowed("the pod's label does not ask for it")
	}
	geth := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == "geth" })
	if geth < 0 {
		logger.Info("decided", "decision", "no-geth-container")
		return admission.Denied("no container of this pod runs Geth")
	}
	i.inject(pod, &pod.Spec.Containers[geth])
	marshaled, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	logger.Info("decided", "decision", "injected")
	return admission.PatchResponseFromRaw(request.Object.Raw, marshaled)
}

func (i *injector) inject(pod *corev1.Pod, geth *corev1.Container) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, ipcSocket(), token())
	geth.VolumeMounts = append(geth.VolumeMounts, corev1.VolumeMount{Name: ipcVolume, MountPath: ipcDir})
	geth.Env = append(geth.Env,
		fromField("POD_IP", "status.podIP"),
		corev1.EnvVar{Name: "GETH_NAT", Value: "extip:$(POD_IP)"},
		corev1.EnvVar{Name: "GETH_IPCPATH", Value: ipcPath},
	)
	pod.Spec.InitContainers = append(pod.Spec.InitContainers, i.sidecar())
	pod.Spec.ServiceAccountName = name
	pod.Spec.DeprecatedServiceAccount = name
	pod.Spec.EnableServiceLinks = new(bool)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotation] = version
}

func (i *injector) sidecar() corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	user, no, yes := int64(0), false, true
	return corev1.Container{
		Name:            name,
		Image:           i.image,
		ImagePullPolicy: corev1.PullIfNotPresent,
		RestartPolicy:   &always,
		Env: []corev1.EnvVar{
			{Name: "LOGGING", Value: "INFO"},
			{Name: "IPC_PATH", Value: ipcPath},
			{Name: "CONFIGMAP_NAME", Value: name},
			fromField("NAMESPACE", "metadata.namespace"),
			fromField("PEERING_POD_NAME", "metadata.name"),
			fromField("PEERING_POD_UID", "metadata.uid"),
			fromField("PEERING_POD_IP", "status.podIP"),
			fromField("PEERING_POD_IPS", "status.podIPs"),
		},
		Ports: []corev1.ContainerPort{{Name: "peering", ContainerPort: 9575, Protocol: corev1.ProtocolTCP}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("5m"),
				corev1.ResourceMemory: resource.MustParse("16Mi"),
			},
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no,
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   &yes,
			RunAsUser:                &user,
			RunAsGroup:               &user,
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		VolumeMounts: []corev1.VolumeMount{
			{Name: ipcVolume, MountPath: ipcDir, ReadOnly: true},
			{Name: tokenName, MountPath: tokenDir, ReadOnly: true},
		},
		ReadinessProbe: probe("/readyz", 5, 2, 3),
		LivenessProbe:  probe("/livez", 10, 5, 6),
	}
}
