import { type FormEvent, useState } from 'react'
import { listKeys } from '../../../src/api/control/keys.ts'
import { showUsage, type TokensUsage } from '../../../src/api/control/usage.ts'
import { Budgets } from '../parts/budgets.tsx'
import { DayBars } from '../parts/day-bars.tsx'
import { Facts } from '../parts/facts.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { useProject } from '../project.ts'
import { useAnswer } from '../service.ts'
import { numberText } from '../text.ts'

const everyMs = 10_000

interface Span {
  readonly from?: string
  readonly to?: string
}

/** What a project has used in some days, of whom, and what it costs. */
export function Usage() {
  const project = useProject()
  const [span, setSpan] = useState<Span>({})
  const ask = (by: string) => ({ params: { project }, query: { ...span, by } })
  const days = useAnswer(showUsage, ask('day'), { every: everyMs })
  const whose = useAnswer(showUsage, ask('key,model'), { every: everyMs })
  const keys = useAnswer(listKeys, { params: { project }, query: { limit: 500 } }).data?.items ?? []
  const rows = days.data?.tokens ?? []
  const sum = (of: (row: TokensUsage) => number) => rows.reduce((total, row) => total + of(row), 0)
  return (
    <>
      <h1>Usage</h1>
      <SpanForm onChange={setSpan} />
      <Problem error={days.error ?? whose.error} />
      {days.data && (
        <Facts
          of={{
            Requests: sum(({ requests }) => requests).toLocaleString(),
            'Tokens read': sum(({ prompt }) => prompt).toLocaleString(),
            'Of these from the cache': sum(({ cached }) => cached).toLocaleString(),
            'Tokens written': sum(({ output }) => output).toLocaleString(),
            Cost: costText(days.data.cost),
          }}
        />
      )}
      {rows.length > 0 && (
        <div className="charts">
          <DayBars
            title="Tokens by day (UTC)"
            parts={['read', 'written']}
            days={rows.map(({ day = '', prompt, output }) => ({ day, values: [prompt, output] }))}
          />
          {rows.some(({ cost }) => cost > 0) && (
            <DayBars
              title="Cost of tokens by day (UTC)"
              parts={['cost']}
              days={rows.map(({ day = '', cost }) => ({ day, values: [cost] }))}
            />
          )}
        </div>
      )}
      <h2>By key and model</h2>
      <ByKey keys={keys} rows={whose.data?.tokens} />
      <h2>Devices of jobs and deployments</h2>
      <Table
        rows={days.data?.devices}
        keyOf={({ day, subject, device }) => `${day} ${subject} ${device}`}
        empty="No device was used in these days."
        columns={{
          Day: ({ day }) => day,
          'Job or deployment': ({ name }) => name,
          Device: ({ device }) => device,
          Hours: ({ hours }) => numberText(hours),
          Cost: ({ cost }) => costText(cost),
        }}
      />
      <Budgets project={project} keys={keys} />
    </>
  )
}

function SpanForm({ onChange }: { onChange(span: Span): void }) {
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const day = (name: string) => String(given.get(name))
    onChange({
      ...(day('from') !== '' && { from: day('from') }),
      ...(day('to') !== '' && { to: day('to') }),
    })
  }
  return (
    <form onSubmit={send} className="row">
      <label>
        From (else this month's first day)
        <input name="from" type="date" />
      </label>
      <label>
        To (else today)
        <input name="to" type="date" />
      </label>
      <button type="submit">Show</button>
    </form>
  )
}

interface ByKeyProps {
  readonly keys: readonly { readonly id: string; readonly name: string }[]
  readonly rows: readonly TokensUsage[] | undefined
}

function ByKey({ keys, rows }: ByKeyProps) {
  const names = new Map(keys.map(({ id, name }) => [id, name]))
  return (
    <Table
      rows={rows}
      keyOf={({ key, model }) => `${key} ${model}`}
      empty="Nobody asked a deployment in these days."
      columns={{
        Key: ({ key }) => (key === undefined ? '' : (names.get(key) ?? key)),
        Model: ({ model }) => model,
        Requests: ({ requests }) => requests.toLocaleString(),
        Read: ({ prompt }) => prompt.toLocaleString(),
        'From the cache': ({ cached }) => cached.toLocaleString(),
        Written: ({ output }) => output.toLocaleString(),
        Cost: ({ cost }) => costText(cost),
      }}
    />
  )
}

/** In whatever currency the operator counts; nothing where no price is set. */
function costText(cost: number): string {
  return cost === 0 ? '' : cost.toLocaleString(undefined, { maximumFractionDigits: 4 })
}
