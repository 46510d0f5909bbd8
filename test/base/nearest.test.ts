import { expect, test } from 'vitest'
import { fieldPlaces, meantField, standsAt } from '../../src/base/meant-field.ts'
import { nearest } from '../../src/base/nearest.ts'

const names = ['k', 'steps', 'schedule', 'optimizer', 'weight_decay', 'data']

test.each([
  ['stepz', 'steps'],
  ['Steps', 'steps'],
  ['weigth_decay', 'weight_decay'],
  ['optimiser', 'optimizer'],
  ['dat', 'data'],
  ['colour', undefined],
  ['', undefined],
  ['n', undefined],
])('%s means %s', (given, meant) => {
  expect(nearest(given, names)).toBe(meant)
})

const text = { type: 'string' }
const places = fieldPlaces({
  properties: {
    name: text,
    slots: { properties: { cpu: text, gpu: text } },
    notify: { anyOf: [{ properties: { slack: text, on: text } }, { properties: { mail: text } }] },
    files: { items: { properties: { path: text, weight: text, name: text } } },
  },
})

test.each([
  ['', 'nane', 'name'],
  ['notify', 'slak', 'slack'],
  ['notify', 'mails', 'mail'],
  ['slots', 'cpus', 'cpu'],
  ['files.3', 'wieght', 'weight'],
  ['', 'cpu', 'slots.cpu'],
  ['', 'slack', 'notify.slack'],
  ['', 'slacks', 'notify.slack'],
  ['files.3', 'cpu', 'slots.cpu'],
  ['notify', 'name', 'name outside of notify or files.name'],
  ['notify', 'colour', undefined],
])('at "%s", %s means %s', (path, name, meant) => {
  expect(meantField(path, name, places)).toBe(meant)
})

test('a field of another alternative stands where it is, and one of another object does not', () => {
  expect(standsAt('notify', 'mail', places)).toBe(true)
  expect(standsAt('files.3', 'weight', places)).toBe(true)
  expect(standsAt('files.3', 'mail', places)).toBe(false)
  expect(standsAt('files.3', 'nothing', places)).toBe(false)
})
