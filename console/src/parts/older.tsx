interface OlderProps {
  /** Of the page that shows; undefined for the newest. */
  readonly cursor: string | undefined
  readonly next: string | null | undefined
  onGo(cursor: string | undefined): void
}

/** Leads through a list whose newest entries stand first. */
export function Older({ cursor, next, onGo }: OlderProps) {
  return (
    <p className="row">
      {cursor !== undefined && (
        <button type="button" onClick={() => onGo(undefined)}>
          Newest
        </button>
      )}
      {next != null && (
        <button type="button" onClick={() => onGo(next)}>
          Older
        </button>
      )}
    </p>
  )
}
