import type { FormEvent } from 'react'
import {
  type BudgetInput,
  type BudgetView,
  listBudgets,
  putBudget,
  removeBudget,
} from '../../../src/api/control/usage.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'
import { Problem } from './problem.tsx'
import { Table } from './table.tsx'

interface BudgetsProps {
  readonly project: string
  readonly keys: readonly { readonly id: string; readonly name: string }[]
}

/** What the project, or one of its keys, may use in a day or a month. */
export function Budgets({ project, keys }: BudgetsProps) {
  const { data, error } = useAnswer(listBudgets, { params: { project } }, { every: seldom })
  const set = useDeed(
    (body: BudgetInput) => service.call(putBudget, { params: { project }, body }),
    ['budgets.'],
  )
  const remove = useDeed(
    (budget: string) => service.call(removeBudget, { params: { project, budget } }),
    ['budgets.'],
  )
  const ofKey = ({ key }: BudgetView) =>
    key === null ? 'the project' : `key ${keys.find(({ id }) => id === key)?.name ?? key}`
  return (
    <>
      <h2>Budgets</h2>
      <BudgetForm keys={keys} isBusy={set.isPending} onSend={set.mutate} />
      <Problem error={error ?? set.error ?? remove.error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="Nothing is bounded."
        columns={{
          Of: ofKey,
          In: ({ per }) => `a ${per}`,
          Tokens: ({ tokens }) => tokens?.toLocaleString(),
          Cost: ({ cost }) => cost?.toLocaleString(),
          'Hours of devices': ({ device_hours }) => device_hours?.toLocaleString(),
          '': ({ id }) => (
            <button type="button" disabled={remove.isPending} onClick={() => remove.mutate(id)}>
              Remove
            </button>
          ),
        }}
      />
    </>
  )
}

interface BudgetFormProps extends Pick<BudgetsProps, 'keys'> {
  readonly isBusy: boolean
  onSend(budget: BudgetInput): void
}

function BudgetForm({ keys, isBusy, onSend }: BudgetFormProps) {
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const bound = (name: 'tokens' | 'cost' | 'device_hours') =>
      given.get(name) === '' ? {} : { [name]: Number(given.get(name)) }
    const key = String(given.get('key'))
    onSend({
      per: given.get('per') as BudgetInput['per'],
      ...(key !== '' && { key }),
      ...bound('tokens'),
      ...bound('cost'),
      ...bound('device_hours'),
    })
  }
  return (
    <form onSubmit={send} className="row">
      <label>
        Budget of
        <select name="key">
          <option value="">the project</option>
          {keys.map(({ id, name }) => (
            <option key={id} value={id}>
              key {name}
            </option>
          ))}
        </select>
      </label>
      <label>
        In each
        <select name="per">
          <option>month</option>
          <option>day</option>
        </select>
      </label>
      <label>
        Tokens at most
        <input name="tokens" type="number" min={1} max={1e15} />
      </label>
      <label>
        Cost at most
        <input name="cost" type="number" min={0} step="any" />
      </label>
      <label>
        Hours of devices at most
        <input name="device_hours" type="number" min={0} step="any" />
      </label>
      <button type="submit" className="main" disabled={isBusy}>
        Set
      </button>
    </form>
  )
}
