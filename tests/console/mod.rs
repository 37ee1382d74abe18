//! The pages for people, and what keeps them safe.

mod browser;
mod listener;
mod pages;
mod safety;
