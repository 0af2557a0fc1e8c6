//! A tokio service that runs a container for each request: what a connection sends is the container's standard input, what the
//! container writes is the answer.
//!
//! ```sh
//! cargo run --example async            # serves 20 requests of its own on loopback, and ends
//! cargo run --example async -- 8080    # serves until it is stopped:  echo hello | nc -N 127.0.0.1 8080
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use container_core::{ContainerBuilder, End};
use examples::host_root::HostRoot;
use examples::with_causes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request is no longer than this.
const LONGEST: u64 = 1 << 20;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("async: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let root = HostRoot::new()?;
    let shout = root
        .container()
        .sandbox()
        .command(["tr", "a-z", "A-Z"])
        .memory(64 << 20)
        .limits_best_effort(true)
        .timeout(Duration::from_secs(5))
        .output_limit(LONGEST as usize);
    let port = std::env::args().nth(1).map(|word| word.parse::<u16>()).transpose()?;
    let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).await?;
    let address = listener.local_addr()?;
    println!("listening on {address}");
    let server = tokio::spawn(serve(listener, Arc::new(shout)));
    if port.is_some() {
        tokio::select! {
            result = server => result??,
            result = tokio::signal::ctrl_c() => result?,
        }
        return Ok(());
    }

    let before = Instant::now();
    let requests: Vec<_> = (0..20)
        .map(|n| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(format!("request {n}").as_bytes()).await?;
                stream.shutdown().await?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await?;
                std::io::Result::Ok(answer)
            })
        })
        .collect();
    for (n, request) in requests.into_iter().enumerate() {
        let answer = request.await??;
        if answer != format!("REQUEST {n}") {
            return Err(format!("request {n} was answered {answer:?}").into());
        }
    }
    println!("20 requests, a container each, in {:.0?}", before.elapsed());
    server.abort();
    Ok(())
}

async fn serve(listener: TcpListener, builder: Arc<ContainerBuilder>) -> std::io::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        let builder = Arc::clone(&builder);
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &builder).await {
                eprintln!("async: {peer}: {}", with_causes(&*error));
            }
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    builder: &ContainerBuilder,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut input = Vec::new();
    (&mut stream).take(LONGEST).read_to_end(&mut input).await?;
    // If the connection goes away this future is dropped, and the container with it.
    let outcome = builder.clone().input(input).run_async().await?;
    match outcome.end {
        End::Exited(0) => stream.write_all(&outcome.stdout).await?,
        other => stream.write_all(format!("it ended otherwise: {other:?}\n").as_bytes()).await?,
    }
    stream.shutdown().await?;
    Ok(())
}
