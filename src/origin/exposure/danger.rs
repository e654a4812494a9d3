//! What must not be public by accident: the names and sentences that people read. How each is recognised
//! stands in `web`, `bytes` and `directory`.

use std::fmt;

/// One kind of thing that should never be public without somebody meaning it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Danger {
    /// Its stable name, for scripts and for looking it up: `redis-open`.
    pub name: &'static str,
    /// What it is, to stand after "is".
    pub what: &'static str,
    /// Why it is dangerous, to stand after a colon.
    pub why: &'static str,
    /// What to do about it, as an order.
    pub fix: &'static str,
    /// Whether a tunnel that carries bytes is refused too. Who publishes a database in `tcp://` means it;
    /// who publishes one that asks nobody for a password does not.
    pub in_bytes_too: bool,
}

macro_rules! dangers {
    ($($ident:ident = $name:literal, $bytes:literal, $what:literal, $why:literal, $fix:literal;)*) => {
        $(pub(super) static $ident: Danger = Danger { name: $name, what: $what, why: $why, fix: $fix, in_bytes_too: $bytes };)*

        /// All of them, worst first, as they are told.
        pub(super) static ALL: &[&Danger] = &[$(&$ident,)*];
    };
}

dangers! {
    DOCKER_API = "docker-api", true, "a Docker API without authentication", "whoever reaches it is root on this machine", "leave it on its Unix socket, or ask for client certificates";
    KUBERNETES_OPEN = "kubernetes-open", true, "a Kubernetes API that answers anybody", "whoever reaches it can read the cluster and perhaps run anything there", "take the rights of system:anonymous away";
    KUBELET_OPEN = "kubelet-open", true, "a kubelet that answers anybody", "it tells every pod with its settings", "turn off the read-only port and anonymous access";
    NODE_INSPECTOR = "node-inspector", true, "a debugger's port (Node.js or Chrome)", "whoever reaches it runs code in the process", "start the program without --inspect or --remote-debugging-port, or tunnel its other port";
    WERKZEUG_CONSOLE = "werkzeug-console", true, "an application with Werkzeug's debugger", "its console runs Python for whoever gets past the PIN", "run it without debug mode";
    RAILS_CONSOLE = "rails-console", true, "a Rails application with a console in its error pages", "the console runs Ruby", "leave out web-console, or run it in production mode";
    JENKINS_SCRIPT = "jenkins-script", true, "a Jenkins whose script console is open to anybody", "the console runs code as Jenkins", "turn its security on";
    IGNITION = "laravel-ignition", true, "a Laravel application with Ignition's commands on", "visitors can have it run commands", "set APP_DEBUG=false";
    JUPYTER_OPEN = "jupyter-open", true, "a Jupyter server without token or password", "notebooks and terminals run code as you", "start it with a token";
    EDITOR_OPEN = "editor-open", true, "a code editor without a password", "its terminal runs code as you", "give it a password";
    TERMINAL_OPEN = "terminal-open", true, "a terminal in the browser without a password", "it runs commands as you", "give it a password";
    REDIS_OPEN = "redis-open", true, "Redis without a password", "anybody can read and change all data, and write files through it", "set requirepass, or an ACL";
    MEMCACHED_OPEN = "memcached-open", true, "memcached without authentication", "anybody can read, change and flush the cache", "keep it private";
    MONGODB_OPEN = "mongodb-open", true, "MongoDB without authentication", "anybody can read and delete all data", "turn on security.authorization";
    POSTGRES_TRUST = "postgres-trust", true, "PostgreSQL that trusts whoever connects", "anybody is its superuser, who also runs commands", "write scram-sha-256 in place of trust in pg_hba.conf";
    ELASTICSEARCH_OPEN = "elasticsearch-open", true, "Elasticsearch or OpenSearch without authentication", "anybody can read and delete all indices", "turn its security on";
    COUCHDB_OPEN = "couchdb-open", true, "CouchDB without authentication", "anybody can read its databases", "set require_valid_user";
    CLICKHOUSE_OPEN = "clickhouse-open", true, "ClickHouse whose default user has no password", "anybody can run queries", "give the default user a password";
    ETCD_OPEN = "etcd", true, "etcd", "it holds a cluster's secrets, and is rarely behind a password", "keep it private";
    CONSUL_OPEN = "consul-open", true, "a Consul agent that answers anybody", "anybody can read its catalogue, and often register checks that run commands", "turn on ACLs with default_policy deny";
    NOMAD_OPEN = "nomad-open", true, "a Nomad agent that answers anybody", "anybody can run jobs on the cluster", "turn on ACLs";
    RABBITMQ_OPEN = "rabbitmq-open", true, "RabbitMQ's management without authentication", "anybody can read and delete queues", "ask for a login";
    MYSQL = "mysql", false, "MySQL or MariaDB", "it is a database and speaks no HTTP, so this is hardly the port you meant", "check the port, or open tcp:// to it";
    POSTGRES = "postgres", false, "PostgreSQL", "it is a database and speaks no HTTP, so this is hardly the port you meant", "check the port, or open tcp:// to it";
    MONGODB = "mongodb", false, "MongoDB", "it is a database and speaks no HTTP, so this is hardly the port you meant", "check the port, or open tcp:// to it";
    REDIS = "redis", false, "Redis", "it is a database and speaks no HTTP, so this is hardly the port you meant", "check the port, or open tcp:// to it";
    GIT = "git-folder", true, "a site that gives away its .git folder", "the whole source and its history can be fetched, with every secret that was ever in it", "serve a folder without .git";
    ENV_FILE = "env-file", true, "a site that gives away an .env file", "it holds passwords and keys", "serve a folder without it";
    PRIVATE_KEY = "private-key", true, "a folder with a private key in it", "whoever fetches it can be you", "move the key elsewhere";
    LISTING = "directory-listing", true, "a listing of a folder", "anybody can find and fetch every file in it", "serve a folder with an index page, turn listing off, or open file:/dir, which shows no hidden files";
    DJANGO_DEBUG = "django-debug", true, "a Django application in debug mode", "its error pages show source, variables and settings", "set DEBUG = False";
    SPRING_ACTUATOR = "spring-actuator", true, "a Spring application with its actuator open", "env and heapdump hold passwords", "expose health alone in management.endpoints.web.exposure";
    SYMFONY_PROFILER = "symfony-profiler", true, "a Symfony application with its profiler", "it shows settings, requests and sessions", "set APP_ENV=prod";
    PHPINFO = "phpinfo", true, "a page of phpinfo()", "it shows settings and the environment, with the secrets in it", "remove the page";
    PPROF = "go-pprof", true, "a Go program with its profiler open", "memory and command line can be fetched, and profiling slows it down", "serve net/http/pprof on another port";
}

/// What the guard found at an origin: at least one danger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    target: String,
    dangers: Vec<&'static Danger>,
}

impl Exposure {
    /// None when there is nothing to tell.
    pub(super) fn of(target: String, mut dangers: Vec<&'static Danger>) -> Option<Self> {
        dangers.sort_by_key(|danger| ALL.iter().position(|one| one == danger));
        dangers.dedup();
        (!dangers.is_empty()).then_some(Self { target, dangers })
    }

    /// What was found, by stable name.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.dangers.iter().map(|danger| danger.name)
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is ", self.target)?;
        for (n, danger) in self.dangers.iter().enumerate() {
            let also = if n == 0 { "" } else { "; also " };
            let Danger {
                name,
                what,
                why,
                fix,
                ..
            } = danger;
            write!(f, "{also}{what} ({name}): {why}; {fix}")?;
        }
        Ok(())
    }
}
