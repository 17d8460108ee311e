"""OpenTelemetry's own variables mean what its specification says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from otel_exec.config import resolve, should_sample
from otel_exec.config_values import mask_url
from otel_exec.errors import ConfigError

TRACE = "0af7651916cd43dd8448eb211c80319c"
E = "OTEL_EXPORTER_OTLP_"


def otel(**environ):
    return resolve({}, environ)


def traces(**environ):
    (endpoint,) = otel(**{E + name: value for name, value in environ.items()}).traces
    return endpoint


def refused(environ):
    with pytest.raises(ConfigError) as caught:
        resolve({}, environ)
    return caught.value


@pytest.mark.parametrize(
    ("value", "protocol", "url"),
    [
        ("http://localhost:4317", "grpc", "http://localhost:4317"),
        ("https://collector:4317", "grpc", "https://collector:4317"),
        ("https://collector", "grpc", "https://collector"),
        ("http://localhost:4317/", "grpc", "http://localhost:4317"),
        ("http://localhost:4318", "http/protobuf", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http/protobuf", "http://localhost:4318/v1/traces"),
        ("https://x.example.com/otlp", "http/protobuf", "https://x.example.com/otlp/v1/traces"),
        ("https://x.example.com/otlp/", "http/protobuf", "https://x.example.com/otlp/v1/traces"),
        ("https://x.example.com/otlp?a=b", "http/protobuf", "https://x.example.com/otlp/v1/traces?a=b"),
        ("http://[::1]:4317", "grpc", "http://[::1]:4317"),
        ("HTTP://LOCALHOST:4318", "http/protobuf", "http://LOCALHOST:4318/v1/traces"),
        ("localhost:4318", "http/protobuf", "http://localhost:4318/v1/traces"),
        ("collector:9000/otlp", "http/protobuf", "http://collector:9000/otlp/v1/traces"),
        (" http://localhost:4317 ", "grpc", "http://localhost:4317"),
    ],
)
def test_general_endpoint(value, protocol, url):
    """Without a protocol port 4318 or a path means HTTP, else gRPC; HTTP gets the signal's path appended."""
    endpoint = traces(ENDPOINT=value)
    assert (endpoint.protocol, endpoint.url) == (protocol, url)


@pytest.mark.parametrize(
    ("value", "url"),
    [("http://h:4318", "http://h:4318/"), ("http://h:4318/", "http://h:4318/"), ("http://h/v1/traces", "http://h/v1/traces"), ("http://h/x/", "http://h/x/")],
)
def test_signal_endpoint_is_used_as_is(value, url):
    """A signal's own endpoint is used as it is; one without a path gets the root path."""
    endpoint = traces(TRACES_ENDPOINT=value, ENDPOINT="http://other:1/x")
    assert (endpoint.protocol, endpoint.url) == ("http/protobuf", url)


def test_metrics_have_their_own():
    """The metrics' endpoint has the metrics' path, and a signal's own endpoint concerns no other signal."""
    assert otel(**{E + "ENDPOINT": "http://h:4318"}).metrics[0].url == "http://h:4318/v1/metrics"
    config = otel(**{E + "TRACES_ENDPOINT": "http://h:4318/v1/traces"})
    assert (len(config.traces), config.metrics) == (1, ())


def test_a_signals_variable_beats_the_general_one():
    """Of every option the signal's own variable comes first."""
    endpoint = traces(
        ENDPOINT="http://h:4317",
        PROTOCOL="grpc",
        TRACES_PROTOCOL="http/json",
        HEADERS="a=1,b=2",
        TRACES_HEADERS="c=3",
        TIMEOUT="1000",
        TRACES_TIMEOUT="2500",
        COMPRESSION="gzip",
        TRACES_COMPRESSION="none",
    )
    assert (endpoint.protocol, endpoint.headers, endpoint.timeout_s, endpoint.compression) == ("http/json", (("c", "3"),), 2.5, None)


def test_nothing_set_exports_nothing():
    """Without an endpoint and without an exporter named nothing is exported, whatever the other options say, and nothing is complained about."""
    config = otel(**{E + "PROTOCOL": "grpc", E + "HEADERS": "a=b", "OTEL_TRACES_EXPORTER": "", E + "ENDPOINT": ""})
    assert config.traces == () == config.metrics
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://localhost:4318/v1/traces"),
        ({E + "PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({E + "PROTOCOL": "http/json"}, "http://localhost:4318/v1/traces"),
    ],
)
def test_a_named_exporter_means_localhost(environ, url):
    """OTEL_TRACES_EXPORTER=otlp by itself means the specification's localhost."""
    config = otel(OTEL_TRACES_EXPORTER="otlp", **environ)
    assert config.traces[0].url == url
    assert config.metrics == ()


def test_exporters():
    """console, none and lists select what is exported; an endpoint alone does not override none."""
    endpoint = {E + "ENDPOINT": "http://h:4317"}
    assert otel(OTEL_TRACES_EXPORTER="none", **endpoint).traces == ()
    config = otel(OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="console, otlp", **endpoint)
    assert (config.traces, config.console, len(config.metrics), config.console_metrics) == ((), True, 1, True)
    config = otel(OTEL_TRACES_EXPORTER="otlp,console", **endpoint)
    assert (len(config.traces), config.console) == (1, True)
    assert refused({"OTEL_TRACES_EXPORTER": "otlp,none"}).setting == "OTEL_TRACES_EXPORTER"
    assert refused({"OTEL_TRACES_EXPORTER": "zipkin"}).setting == "OTEL_TRACES_EXPORTER"


@pytest.mark.parametrize("value", ["true", "True", "TRUE"])
def test_sdk_disabled(value):
    """OTEL_SDK_DISABLED=true exports nothing and leaves the propagators alone."""
    config = otel(OTEL_SDK_DISABLED=value, OTEL_TRACES_EXPORTER="otlp,console", TRACEPARENT=f"00-{TRACE}-b7ad6b7169203331-01")
    assert (config.sdk_disabled, config.traces, config.metrics, config.console) == (True, (), (), False)
    assert config.parent is not None


@pytest.mark.parametrize("value", ["1", "yes", "on"])
def test_only_true_is_true(value):
    """The specification forbids other words than true: they are false, with a warning."""
    config = otel(OTEL_SDK_DISABLED=value)
    assert not config.sdk_disabled
    assert "OTEL_SDK_DISABLED" in config.warnings[0]
    assert otel(OTEL_SDK_DISABLED="FALSE").warnings == ()


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "localhost",
        "ftp://x",
        "http://",
        "http://h:99999",
        "http://h:0",
        "http://h:port",
        "h:99999",
        "http://[::1",
        "://x",
        "http:/h",
        "unix:/x",
        "http://a b",
    ],
)
def test_an_endpoint_that_is_none(value):
    """What is not an address is an error that names the variable, the value and what is accepted."""
    error = refused({E + "ENDPOINT": value})
    assert (error.setting, error.value) == (E + "ENDPOINT", value)
    assert "http://localhost:4317" in error.accepted


def test_errors_hide_secrets():
    """Neither an address's password nor a header's value stands in an error."""
    assert "hunter2" not in str(refused({E + "ENDPOINT": "ftp://me:hunter2@h?key=hunter2"}))
    assert "hunter2" not in str(refused({E + "ENDPOINT": "http://h:1", E + "HEADERS": "authorization hunter2"}))
    assert "hunter2" not in str(refused({E + "ENDPOINT": "http://h:1", E + "HEADERS": "x=hunter2%0Aevil"}))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:hunter2@h:4317/p", "http://***@h:4317/p"),
        ("http://me:hun/ter2@h:4317", "http://***@h:4317"),
        ("http://me:hun@ter/2@h:4317", "http://***@h:4317"),
        ("http://me:hun?ter2@h/p", "http://***@h/p"),
        ("http://me:hun#ter2@h", "http://***@h"),
        ("http://me:12/hunter2@h", "http://***@h"),
        ("me:hun://ter2@h:4317", "***@h:4317"),
        ("me:hunter2@h:4317", "***@h:4317"),
        ("https://hun/ter2@h", "https://***@h"),
    ],
)
def test_a_password_with_characters_that_should_have_been_encoded(address, shown):
    """What stands before the last @ is not shown, whatever is in it."""
    assert mask_url(address) == shown
    assert mask_url(address, all_queries=False) == shown


@pytest.mark.parametrize("address", ["http://h:4317", "h:4317/p", "https://[::1]:4317/p#a@b", "http://h/p?q=a%40b&to=me@h", "/tmp/a/run.json", "s3://bucket/a"])
def test_an_address_without_a_password_is_shown_as_it_is(address):
    """Ports, brackets, fragments and queries are no credentials."""
    assert mask_url(address, all_queries=False) == address


def test_without_a_scheme():
    """host:port for gRPC is TLS unless INSECURE says otherwise, and a warning says what to write; a scheme decides whatever INSECURE says."""
    config = otel(**{E + "ENDPOINT": "h:4317", "OTEL_METRICS_EXPORTER": "none"})
    assert config.traces[0].url == "https://h:4317"
    assert "http://h:4317" in config.warnings[0]
    config = otel(**{E + "ENDPOINT": "h:4317", E + "INSECURE": "true"})
    assert (config.traces[0].url, config.warnings) == ("http://h:4317", ())
    assert traces(ENDPOINT="https://h:4317", INSECURE="true").url == "https://h:4317"
    assert traces(ENDPOINT="http://h:4317", INSECURE="false").url == "http://h:4317"


def test_credentials_in_an_address_become_a_header():
    """user:password@ is sent as basic authorization and stands in no address; a header that is given comes first."""
    endpoint = traces(ENDPOINT="http://us%40er:pa%3Ass@h:4318")
    assert endpoint.url == "http://h:4318/v1/traces"
    assert endpoint.headers == (("authorization", "Basic dXNAZXI6cGE6c3M="),)
    assert traces(ENDPOINT="http://a:b@h:4318", HEADERS="Authorization=Bearer%20x").headers == (("authorization", "Bearer x"),)


def test_headers():
    """Headers are pairs as in W3C Baggage: spaces around are dropped, values percent-decoded, `=` may stand in a value, names come in lower case."""
    assert traces(ENDPOINT="http://h:1", HEADERS=" Api-Key = a%2Cb%20c , x=y=z,empty=,").headers == (("api-key", "a,b c"), ("empty", ""), ("x", "y=z"))
    assert refused({E + "ENDPOINT": "http://h:1", E + "HEADERS": "a b=1"}).setting == E + "HEADERS"


@pytest.mark.parametrize(("value", "seconds"), [("10000", 10.0), ("1500", 1.5), ("0", 0.0), ("100", 0.1)])
def test_timeout_is_in_milliseconds(value, seconds):
    """Timeouts are whole milliseconds; zero means no limit."""
    config = otel(**{E + "ENDPOINT": "http://h:1", E + "TIMEOUT": value})
    assert (config.traces[0].timeout_s, config.warnings) == (seconds, ())


def test_a_timeout_that_looks_like_seconds_gets_a_warning():
    """A timeout of a few milliseconds is taken at its word, with a warning about the unit."""
    config = otel(**{E + "TRACES_ENDPOINT": "http://h:1", E + "TIMEOUT": "10"})
    assert config.traces[0].timeout_s == 0.01
    assert "milliseconds" in config.warnings[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROTOCOL", "http"),
        ("TIMEOUT", "10s"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "1.5"),
        ("COMPRESSION", "zstd"),
        ("CERTIFICATE", "/no/such.pem"),
        ("CLIENT_KEY", "/no/such.pem"),
    ],
)
def test_options_that_cannot_be_read(name, value):
    """An option that can't be read is an error that names the variable and the value."""
    error = refused({E + "ENDPOINT": "http://h:1", E + name: value})
    assert (error.setting, error.value) == (E + name, value)


def test_certificates(tmp_path):
    """Certificates and keys are paths of files that can be read."""
    path = tmp_path / "ca.pem"
    path.write_text("x")
    endpoint = traces(ENDPOINT="https://h:1", CERTIFICATE=str(path), CLIENT_CERTIFICATE=str(path), TRACES_CLIENT_KEY=str(path))
    assert (endpoint.certificate, endpoint.client_certificate, endpoint.client_key) == (str(path),) * 3


def test_a_doubled_path_gets_a_warning():
    """The signal's path in the general endpoint is appended once more, as specified, with a warning that names the right variable."""
    config = otel(**{E + "ENDPOINT": "http://h:4318/v1/traces", "OTEL_METRICS_EXPORTER": "none"})
    assert config.traces[0].url == "http://h:4318/v1/traces/v1/traces"
    assert E + "TRACES_ENDPOINT" in config.warnings[0]


def test_service_and_resource():
    """OTEL_SERVICE_NAME comes before service.name among the resource attributes; those are percent-decoded pairs."""
    config = otel(OTEL_SERVICE_NAME="a", OTEL_RESOURCE_ATTRIBUTES="service.name=b,deployment.environment.name=dev%2C1,k=%C3%BC")
    assert config.service_name == "a"
    assert config.resource_attributes == (("deployment.environment.name", "dev,1"), ("k", "ü"))
    assert otel(OTEL_RESOURCE_ATTRIBUTES="service.name=b").service_name == "b"
    assert refused({"OTEL_RESOURCE_ATTRIBUTES": "a=1,broken"}).setting == "OTEL_RESOURCE_ATTRIBUTES"


def test_limits():
    """The span limits come before the general attribute limits; unset ones are the specification's, or none."""
    config = otel(OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="5", OTEL_ATTRIBUTE_COUNT_LIMIT="9", OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="100", OTEL_SPAN_LINK_COUNT_LIMIT="0")
    assert (config.attribute_count_limit, config.attribute_value_length_limit, config.link_count_limit, config.event_count_limit) == (5, 100, 0, 128)
    config = otel()
    assert (config.attribute_count_limit, config.attribute_value_length_limit, config.link_count_limit) == (128, None, None)
    assert refused({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-1"}).setting == "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"


def test_propagators():
    """`tracecontext` reads the parent; unknown propagators get a warning; without it, or with none, no parent is read."""
    config = otel(OTEL_PROPAGATORS="tracecontext, b3,tracecontext", TRACEPARENT=f"00-{TRACE}-b7ad6b7169203331-01")
    assert config.parent is not None
    assert "b3" in config.warnings[0]
    config = otel(OTEL_PROPAGATORS="none", TRACEPARENT=f"00-{TRACE}-b7ad6b7169203331-01")
    assert (config.parent, config.warnings) == (None, ())
    assert otel(OTEL_PROPAGATORS="baggage", TRACEPARENT=f"00-{TRACE}-b7ad6b7169203331-01").parent is None


@pytest.mark.parametrize(
    ("value", "parent"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", (TRACE, "b7ad6b7169203331", True)),
        (f"00-{TRACE}-b7ad6b7169203331-00", (TRACE, "b7ad6b7169203331", False)),
        (f"00-{TRACE}-b7ad6b7169203331-03", (TRACE, "b7ad6b7169203331", True)),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-the-future-brings", (TRACE, "b7ad6b7169203331", True)),
    ],
)
def test_traceparent(value, parent):
    """TRACEPARENT is the run's parent; later versions are read as W3C wants it."""
    config = otel(TRACEPARENT=value, TRACESTATE="a=1 , b=2")
    assert config.parent == parent
    assert config.trace_state == "a=1,b=2"


@pytest.mark.parametrize(
    "value",
    [
        "x",
        f"00-{TRACE}-b7ad6b7169203331",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
    ],
)
def test_a_broken_traceparent_is_passed_over(value):
    """A parent that can't be read starts a new trace, with a warning, and its trace state goes with it."""
    config = otel(TRACEPARENT=value, TRACESTATE="a=1")
    assert (config.parent, config.trace_state) == (None, "")
    assert "TRACEPARENT" in config.warnings[0]


def sampled(name, arg=None, parent=None, trace=TRACE):
    environ = {"OTEL_TRACES_SAMPLER": name}
    if arg is not None:
        environ["OTEL_TRACES_SAMPLER_ARG"] = arg
    if parent is not None:
        environ["TRACEPARENT"] = f"00-{TRACE}-b7ad6b7169203331-{'01' if parent else '00'}"
    return should_sample(otel(**environ), trace)


def test_samplers():
    """Each sampler answers as specified; the parent-based ones follow the inbound parent's flag."""
    assert sampled("always_on")
    assert sampled("always_on", parent=False)
    assert not sampled("always_off")
    assert not sampled("always_off", parent=True)
    assert sampled("parentbased_always_on")
    assert not sampled("parentbased_always_on", parent=False)
    assert not sampled("parentbased_always_off")
    assert sampled("parentbased_always_off", parent=True)
    assert sampled("parentbased_traceidratio", "0", parent=True)
    assert not sampled("parentbased_traceidratio", "0")
    assert sampled("traceidratio")
    assert should_sample(otel(), TRACE)


@given(ratio=st.floats(0, 1), trace=st.integers(1, 2**128 - 1))
def test_ratio_like_the_sdk(ratio, trace):
    """The ratio sampler decides about every trace id as OpenTelemetry's SDK does."""
    theirs = TraceIdRatioBased(ratio).should_sample(None, trace, "run").decision.is_sampled()
    assert sampled("traceidratio", repr(ratio), trace=f"{trace:032x}") == theirs


def test_a_sampler_that_cannot_be_read():
    """An unknown sampler is an error; a bad argument is ignored with a warning, as specified; an argument alone does nothing."""
    assert refused({"OTEL_TRACES_SAMPLER": "jaeger_remote"}).setting == "OTEL_TRACES_SAMPLER"
    for arg in ("2", "x", "-0.5", "nan"):
        config = otel(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=arg)
        assert config.sampler_arg == 1.0
        assert "OTEL_TRACES_SAMPLER_ARG" in config.warnings[0]
    assert otel(OTEL_TRACES_SAMPLER_ARG="0").sampler_arg is None


def test_metric_options():
    """How metrics are collected: unset, every ten seconds, cumulative, with exemplars of sampled spans; milliseconds as the specification has them."""
    options = otel()
    assert (options.metric_interval_s, options.metric_temporality, options.exemplar_filter) == (10.0, "cumulative", "trace_based")
    options = otel(OTEL_METRIC_EXPORT_INTERVAL="2500", OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="DELTA", OTEL_METRICS_EXEMPLAR_FILTER="always_off")
    assert (options.metric_interval_s, options.metric_temporality, options.exemplar_filter, options.warnings) == (2.5, "delta", "always_off", ())


@pytest.mark.parametrize(
    ("of_export", "of_request", "seconds"), [("2500", "", 2.5), ("30000", "", 10.0), ("2500", "0", 2.5), ("0", "4000", 4.0), ("0", "0", 0.0), ("", "0", 0.0)]
)
def test_an_export_of_metrics_has_the_shorter_of_two_timeouts(of_export, of_request, seconds):
    """`OTEL_METRIC_EXPORT_TIMEOUT` bounds one export of metrics, in milliseconds, where the request's own timeout is longer or none; spans keep theirs."""
    options = otel(OTEL_EXPORTER_OTLP_ENDPOINT="http://h:4318", OTEL_METRIC_EXPORT_TIMEOUT=of_export, OTEL_EXPORTER_OTLP_TIMEOUT=of_request)
    assert options.metrics[0].timeout_s == seconds
    assert options.traces[0].timeout_s == (float(of_request or 10_000) / 1000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "5s"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "soon"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "-1"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "1.5"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "both"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
    ],
)
def test_metric_options_that_mean_nothing(name, value):
    """A mistyped option of metrics is refused by its name."""
    assert refused({name: value}).setting == name


def test_other_histograms_are_warned_of():
    """Exponential histograms are not sent: whoever asks for them is told, and gets explicit buckets."""
    name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    assert otel(**{name: "explicit_bucket_histogram"}).warnings == ()
    (warning,) = otel(**{name: "base2_exponential_bucket_histogram"}).warnings
    assert name in warning
