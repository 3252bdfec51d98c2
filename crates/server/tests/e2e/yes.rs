//! A database that says yes: as much of PostgreSQL's protocol as it takes to log in and to be told that each statement
//! was carried out. For tests about rights, which must run where no database is; that leases do what they say is shown
//! with the real servers in [`crate::database`].

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Starts one that lives as long as the test; its port on 127.0.0.1.
pub async fn start() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

const LOGGED_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
const DONE: &[u8] = b"C\0\0\0\x07OK\0Z\0\0\0\x05I";

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    let mut greeting = vec![0; usize::try_from(length).unwrap().saturating_sub(4)];
    stream.read_exact(&mut greeting).await?;
    stream.write_all(LOGGED_IN).await?;
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).unwrap().saturating_sub(4)];
        stream.read_exact(&mut body).await?;
        if kind == b'X' {
            return Ok(());
        }
        // Users stay: nothing that is done behind a test's back may change what it compares.
        if body.starts_with(b"SELECT 1 FROM pg_roles") {
            std::future::pending::<()>().await;
        }
        stream.write_all(DONE).await?;
    }
}
