{{- define "bulla-kms.container" -}}
- name: bulla-kms
  image: {{ toJson .Values.image }}
  # It is on the node before. The digest makes a pulled one the same.
  imagePullPolicy: IfNotPresent
  args: ["kms", "serve", "--config", "/etc/bulla-kms/kms.toml"]
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ toJson .Values.uid }}
    runAsGroup: {{ toJson .Values.gid }}
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    privileged: false
    capabilities:
      drop: ["ALL"]
    seccompProfile:
      type: RuntimeDefault
  # No limit of CPU: a throttled plugin answers late when every Secret waits for it. As much memory is
  # asked for as is allowed: to such a container the kubelet gives no swap.
  resources:
    requests: {cpu: 50m, memory: 256Mi}
    limits: {memory: 256Mi}
{{- end }}
{{- define "bulla-kms.pod" -}}
# The plugin is needed before any network of pods is there, and is shown and asked on the node's loopback address alone.
hostNetwork: true
# The node's own resolver: that of the cluster runs behind kube-apiserver.
dnsPolicy: Default
enableServiceLinks: false
automountServiceAccountToken: false
priorityClassName: system-node-critical
terminationGracePeriodSeconds: 10
containers:
{{ include "bulla-kms.container" . | indent 2 }}
    # Whether the process lives. There is no readiness probe: /readyz is about keys elsewhere, and a restart mends none.
    livenessProbe:
      httpGet:
        host: 127.0.0.1
        port: {{ toJson .Values.operationsPort }}
        path: /livez
      initialDelaySeconds: 10
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    volumeMounts:
      - {name: config, mountPath: /etc/bulla-kms, readOnly: true}
      # The folder, not the socket: a socket that was replaced is still the old one inside.
      - {name: socket, mountPath: /run/bulla-kms}
      - {name: state, mountPath: /var/lib/bulla-kms}
      - {name: audit, mountPath: /var/log/bulla-kms}
# tmpfiles.conf makes the folders. Made by the kubelet they would be root's, and the plugin could not write there.
volumes:
  - name: config
    hostPath: {path: {{ toJson .Values.configFolder }}, type: Directory}
  - name: socket
    hostPath: {path: {{ toJson .Values.socketFolder }}, type: Directory}
  - name: state
    hostPath: {path: {{ toJson .Values.stateFolder }}, type: Directory}
  - name: audit
    hostPath: {path: {{ toJson .Values.auditFolder }}, type: Directory}
{{- end }}
