import type { ReactNode } from 'react'
import { Waiting } from './waiting.tsx'

interface TableProps<Row> {
  readonly rows: readonly Row[] | undefined
  /** Heading -> what stands under it. */
  readonly columns: Readonly<Record<string, (row: Row) => ReactNode>>
  readonly keyOf: (row: Row) => string
  /** Instead of a table without rows. */
  readonly empty: ReactNode
}

export function Table<Row>({ rows, columns, keyOf, empty }: TableProps<Row>) {
  if (rows === undefined) return <Waiting />
  if (rows.length === 0) return <div className="empty">{empty}</div>
  const entries = Object.entries(columns)
  return (
    <div className="wide">
      <table className="rows">
        <thead>
          <tr>
            {entries.map(([heading]) => (
              <th key={heading}>{heading}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={keyOf(row)}>
              {entries.map(([heading, cell]) => (
                <td key={heading}>{cell(row)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}
