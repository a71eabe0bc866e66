{{/* Where parts may connect to. The API server is no pod, so only its ports can be named. */}}

{{- define "tidegate.egressDns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{- define "tidegate.egressApi" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}}
    {{- end }}
{{- end }}

{{/* Engines run in the namespaces of their tenants. */}}
{{- define "tidegate.egressEngines" -}}
- ports: [{port: 8000}]
  to:
    - namespaceSelector: {}
      podSelector:
        matchExpressions:
          - {key: tidegate.dev/model, operator: Exists}
{{- end }}
